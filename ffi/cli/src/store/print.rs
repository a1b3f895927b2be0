//! An inspection's report, for people and for programs.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use pipelines::store::Superblock;
use pipelines::store::inspect::{RecordReport, RecordState, SegmentReport, SegmentState, StoreReport};
use serde_json::{Value, json};

/// Segments that a table has unless all are asked for.
const MAX_SEGMENTS: usize = 32;

/// Which segments are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Damaged ones, and as many of those in use as fit, youngest first.
    Interesting,
    /// Every one.
    All,
}

/// The report as one object, with the fields of [`StoreReport`] and its uuid as text.
pub fn to_json(file: &Path, report: &StoreReport, records: Option<&[RecordReport]>) -> Value {
    let mut all = json!(report);
    all["file"] = json!(file.display().to_string());
    all["sound"] = json!(report.problem_count == 0);
    all["superblock"]["uuid"] = json!(uuid(&report.superblock));
    if let Some(records) = records {
        // Not under "records", which is their number.
        all["record_list"] = json!(records);
    }
    all
}

/// What stands above the table, by name.
fn facts(file: &Path, report: &StoreReport) -> [(&'static str, String); 9] {
    let Superblock { shards, segments_per_shard, segment_bytes, lba_bytes, device_bytes, .. } = report.superblock;
    let meta = size(u64::from(report.superblock.meta_bytes));
    let max = size(u64::from(report.superblock.max_value_bytes));
    let count = |state| report.segments.iter().filter(|segment| segment.state == state).count();
    let [used, free] = [SegmentState::Used, SegmentState::Free].map(count);
    let [blank, damaged] = [SegmentState::Blank, SegmentState::Damaged].map(count);
    let sum = |of: fn(&SegmentReport) -> u32| report.segments.iter().map(|segment| u64::from(of(segment))).sum::<u64>();
    let [live, dead] = [sum(|segment| segment.live), sum(|segment| segment.dead)];
    let [marks, pages] = [sum(|segment| segment.marks), sum(|segment| segment.damaged_pages)];
    let all = u64::from(shards) * u64::from(segments_per_shard);
    let part = match report.segments.first() {
        Some(first) if (report.segments.len() as u64) < all => format!("; below is shard {} alone", first.shard),
        _ => String::new(),
    };
    [
        ("store", file.display().to_string()),
        ("uuid", uuid(&report.superblock)),
        ("device", format!("{} in logical blocks of {}", size(device_bytes), size(u64::from(lba_bytes)))),
        (
            "layout",
            format!(
                "shards: {shards}, segments in each: {segments_per_shard} of {}, of which {meta} metadata{part}",
                size(segment_bytes)
            ),
        ),
        ("values", format!("{}, together {}; the longest may have {max}", report.blocks, size(report.live_bytes))),
        ("segments", format!("{used} used, {free} free, {blank} blank, {damaged} damaged")),
        ("records", format!("{}: {live} live, {dead} dead, {marks} marks", report.records)),
        ("metadata", format!("{} read, {pages} pages damaged", size(report.bytes_read))),
        (
            "problems",
            match report.problem_count {
                0 => "none: the store is sound".to_owned(),
                count => format!("{count}, listed below"),
            },
        ),
    ]
}

/// The report for people.
pub fn summary(file: &Path, report: &StoreReport, which: Selection) -> String {
    let mut text = String::new();
    for (name, value) in facts(file, report) {
        _ = writeln!(text, "{name:<9} {value}");
    }
    let shown = choose(&report.segments, which);
    let busy = report.segments.iter().filter(|segment| is_interesting(segment)).count();
    if !shown.is_empty() {
        _ = writeln!(text, "\n{}", segment_table(&shown));
    }
    if which == Selection::Interesting && busy > shown.len() {
        _ = writeln!(text, "and {} more in use (--all lists every segment)", busy - shown.len());
    }
    if !report.problems.is_empty() {
        _ = writeln!(text, "\nproblems:");
    }
    for problem in &report.problems {
        _ = writeln!(text, "  {problem}");
    }
    let unlisted = report.problem_count - report.problems.len() as u64;
    if unlisted > 0 {
        _ = writeln!(text, "  and {unlisted} more");
    }
    text
}

fn is_damaged(segment: &SegmentReport) -> bool {
    segment.state == SegmentState::Damaged || segment.damaged_pages > 0
}

fn is_interesting(segment: &SegmentReport) -> bool {
    segment.state == SegmentState::Used || is_damaged(segment)
}

/// The segments to list, in the order of the store.
fn choose(segments: &[SegmentReport], which: Selection) -> Vec<SegmentReport> {
    let mut chosen = segments.to_vec();
    if which == Selection::Interesting {
        chosen.retain(is_interesting);
        chosen.sort_by_key(|segment| (!is_damaged(segment), std::cmp::Reverse(segment.generation)));
        chosen.truncate(MAX_SEGMENTS);
        chosen.sort_by_key(|segment| (segment.shard, segment.segment));
    }
    chosen
}

fn segment_table(segments: &[SegmentReport]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "shard",
        "segment",
        "state",
        "generation",
        "records",
        "live",
        "dead",
        "marks",
        "live bytes",
        "damaged pages",
    ]);
    for (at, column) in table.column_iter_mut().enumerate() {
        if at != 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for segment in segments {
        let state = match segment.state {
            SegmentState::Used => "used",
            SegmentState::Free => "free",
            SegmentState::Blank => "blank",
            SegmentState::Damaged => "damaged",
        };
        let SegmentReport { shard, segment: number, generation, records, live, dead, marks, .. } = segment;
        let numbers = [records, live, dead, marks].map(u32::to_string);
        let mut row = vec![shard.to_string(), number.to_string(), state.to_owned(), generation.to_string()];
        row.extend(numbers);
        row.extend([size(segment.live_bytes), segment.damaged_pages.to_string()]);
        table.add_row(row);
    }
    table
}

/// Every record on a line of its own, in columns; plain, for there may be millions.
pub fn records(out: &mut dyn Write, records: &[RecordReport]) -> io::Result<()> {
    writeln!(
        out,
        "shard segment   sequence state      namespace key                                 bytes     offset class   checksum"
    )?;
    for record in records {
        let state = match record.state {
            RecordState::Live => "live",
            RecordState::Superseded => "superseded",
            RecordState::Purged => "purged",
            RecordState::Tombstone => "tombstone",
            RecordState::Purge => "purge",
            RecordState::Clean => "clean",
        };
        let RecordReport { shard, segment, sequence, namespace, value_bytes, value_offset, .. } = record;
        let key = if record.key.is_empty() { "-" } else { &record.key };
        let class = if record.durable { "durable" } else { "cache" };
        let sum = record.checksum.as_deref().unwrap_or("-");
        writeln!(
            out,
            "{shard:>5} {segment:>7} {sequence:>10} {state:<10} {namespace:>9} {key:<32} {value_bytes:>8} {value_offset:>10} {class:<7} {sum}"
        )?;
    }
    writeln!(out)
}

/// The store's uuid in the usual groups.
fn uuid(superblock: &Superblock) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(superblock.uuid));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Bytes, exactly if they are few.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|&(_, shift)| bytes >= 1 << shift) {
        None => format!("{bytes} B"),
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        let told = [0, 1023, 1024, 1536, 64 << 20, 1 << 41].map(size);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "64.0 MiB", "2.0 TiB"]);
    }

    #[test]
    fn damaged_segments_are_listed_before_used_ones_and_free_ones_only_on_demand() {
        let used = |number: u32| SegmentReport {
            segment: number,
            state: SegmentState::Used,
            generation: u64::from(number) + 1,
            ..SegmentReport::default()
        };
        let mut segments: Vec<_> = (0..100).map(used).collect();
        segments[3].damaged_pages = 1;
        segments[4] = SegmentReport { segment: 4, state: SegmentState::Free, ..SegmentReport::default() };
        let chosen: Vec<u32> = choose(&segments, Selection::Interesting).iter().map(|one| one.segment).collect();
        assert_eq!(chosen.len(), MAX_SEGMENTS);
        assert_eq!((chosen[0], chosen[1], chosen.last()), (3, 100 - MAX_SEGMENTS as u32 + 1, Some(&99)));
        assert_eq!(choose(&segments, Selection::All), segments);
    }
}
