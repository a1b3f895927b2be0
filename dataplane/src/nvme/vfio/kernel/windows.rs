//! Addresses that belong to functions on the bus. A write to one of them may be taken by its neighbour before it comes to
//! the IOMMU (PCI Express, "Peer-to-Peer", without Access Control Services), so none is given to memory.

use std::ops::RangeInclusive;
use std::path::Path;

/// `IORESOURCE_MEM` of the kernel, in the third column of `resource`.
const MEMORY: u64 = 0x200;

/// The memory windows of every function and bridge on the machine.
pub(super) fn of_machine() -> Vec<RangeInclusive<u64>> {
    of_folder(Path::new("/sys/bus/pci/devices"))
}

fn of_folder(folder: &Path) -> Vec<RangeInclusive<u64>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let text = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("resource")).ok();
    let texts = entries.filter_map(|entry| text(entry.ok()?));
    texts.flat_map(|text| text.lines().filter_map(window).collect::<Vec<_>>()).collect()
}

/// One line of `resource`: first address, last address, flags; zeros for none.
fn window(line: &str) -> Option<RangeInclusive<u64>> {
    let mut numbers = line.split_whitespace().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let (first, last, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (flags & MEMORY != 0 && first != 0 && first <= last).then_some(first..=last)
}

/// What is left of `ranges` without `holes`.
pub(super) fn without(ranges: Vec<RangeInclusive<u64>>, holes: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let cut = |range: RangeInclusive<u64>, hole: &RangeInclusive<u64>| {
        let (first, last) = range.into_inner();
        let below = hole.start().checked_sub(1).map(|end| first..=last.min(end));
        let above = hole.end().checked_add(1).map(|start| first.max(start)..=last);
        below.into_iter().chain(above).filter(|part| part.start() <= part.end())
    };
    holes.iter().fold(ranges, |left, hole| {
        let untouched = |range: &RangeInclusive<u64>| hole.end() < range.start() || range.end() < hole.start();
        let parts = left
            .into_iter()
            .flat_map(|range| if untouched(&range) { vec![range] } else { cut(range, hole).collect::<Vec<_>>() });
        parts.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_cut_out() {
        let folder = tempfile::tempdir().unwrap();
        let text = "0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x000000000000c000 0x000000000000c03f 0x0000000000040101\n\
                    0x0000008000000000 0x00000080ffffffff 0x000000000014220c\nnonsense\n";
        std::fs::create_dir(folder.path().join("0000:00:01.0")).unwrap();
        std::fs::create_dir(folder.path().join("0000:00:02.0")).unwrap();
        std::fs::write(folder.path().join("0000:00:01.0/resource"), text).unwrap();
        let holes = of_folder(folder.path());
        assert_eq!(holes, [0xFE00_0000..=0xFE00_3FFF, 0x80_0000_0000..=0x80_FFFF_FFFF]);
        let left = without(vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 48) - 1], &holes);
        assert_eq!(
            left,
            [0..=0xFDFF_FFFF, 0xFE00_4000..=0xFEDF_FFFF, 0xFEF0_0000..=0x7F_FFFF_FFFF, 0x81_0000_0000..=(1 << 48) - 1]
        );
    }

    #[test]
    fn holes_may_cover_lap_over_and_touch() {
        let ranges = || vec![10..=20, 30..=40];
        assert_eq!(without(ranges(), &[]), ranges());
        assert_eq!(without(ranges(), &[0..=u64::MAX]), []);
        assert_eq!(without(ranges(), &[15..=35]), [10..=14, 36..=40]);
        assert_eq!(without(ranges(), &[21..=29, 0..=9, 41..=u64::MAX]), ranges());
        assert_eq!(without(ranges(), &[10..=10, 40..=40, 12..=12]), [11..=11, 13..=20, 30..=39]);
    }
}
