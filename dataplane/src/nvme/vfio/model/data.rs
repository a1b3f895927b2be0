//! Moving data: PRPs and SGLs, as strictly as the specification has them.

use std::sync::Arc;

use super::Core;
use crate::nvme::spec::{DataPointer, SglDescriptor, SglKind, Sqe, Status, nvm};

const PAGE: u64 = 4096;

impl Core {
    pub(super) fn transfer(&mut self, sqe: &Sqe) -> Status {
        let (nsid, lba) = (sqe.nsid(), sqe.quadword(10));
        let blocks = u64::from(sqe.dword(12) & 0xFFFF) + 1;
        let lba_bytes = u64::from(self.options.lba_bytes);
        let bytes = blocks * lba_bytes;
        if !self.in_range(nsid, lba, blocks) {
            return Status::generic(0x80).do_not_retry();
        }
        if self.options.mdts != 0 && bytes > PAGE << self.options.mdts {
            return Status::INVALID_FIELD;
        }
        let boundary = u64::from(self.options.optimal_boundary);
        if boundary * lba_bytes >= 64 << 10 && lba / boundary != (lba + blocks - 1) / boundary {
            self.violation(format!("{blocks} blocks at {lba} cross a boundary"));
        }
        let writes = sqe.opcode() == nvm::opcode::WRITE;
        self.counters.forced += u64::from(writes && sqe.dword(12) & nvm::FORCE_UNIT_ACCESS != 0);
        let hurt = |(first, end): &(u64, u64)| lba < *end && *first < lba + blocks;
        if !writes && nsid == 1 && self.damaged.iter().any(hurt) {
            // Media and data integrity error, unrecovered read error.
            return Status::from_bits(0x281);
        }
        let segments = match self.segments(sqe, bytes) {
            Ok(segments) => segments,
            Err(status) => return status,
        };
        let mut at = lba * lba_bytes;
        for (address, length) in segments {
            if self.move_bytes(nsid, at, address, length, writes).is_none() {
                self.violation(format!("{length} bytes at {address:#x}, which is not mapped"));
                return Status::DATA_TRANSFER_ERROR;
            }
            at += length;
        }
        if writes {
            let volatile = self.options.volatile_cache && sqe.dword(12) & nvm::FORCE_UNIT_ACCESS == 0;
            self.media[nsid as usize - 1].written(lba * lba_bytes, bytes, volatile);
        }
        Status::SUCCESS
    }

    fn move_bytes(&self, nsid: u32, at: u64, address: u64, length: u64, writes: bool) -> Option<()> {
        let media = &self.media.get(nsid as usize - 1)?.blocks;
        let (region, offset) = self.host.find(address, length)?;
        let region = Arc::clone(region);
        if writes {
            region.copy_to(offset, media, at, length as usize)
        } else {
            media.copy_to(at, &region, offset, length as usize)
        }
    }

    /// The ranges that a data pointer describes.
    fn segments(&mut self, sqe: &Sqe, bytes: u64) -> Result<Vec<(u64, u64)>, Status> {
        match sqe.data_pointer() {
            Some(DataPointer::Prp { first, second }) => self.prps(first, second, bytes),
            Some(DataPointer::Sgl(descriptor)) if self.options.sgl => {
                self.counters.sgls += 1;
                one_block(descriptor, bytes)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// The ranges that a command's data pointer names, and its PRP list's own. Looks without a trace.
    pub(super) fn named_by(&self, sqe: &Sqe) -> Vec<(u64, u64)> {
        let lba_bytes = u64::from(self.options.lba_bytes);
        let bytes = (u64::from(sqe.dword(12) & 0xFFFF) + 1) * lba_bytes;
        match sqe.opcode() {
            nvm::opcode::READ | nvm::opcode::WRITE => {}
            nvm::opcode::DATASET_MANAGEMENT => return vec![(sqe.quadword(6), 16)],
            _ => return Vec::new(),
        }
        let (first, second) = match sqe.data_pointer() {
            Some(DataPointer::Prp { first, second }) => (first, second),
            Some(DataPointer::Sgl(descriptor)) => return vec![(descriptor.address, bytes)],
            None => return Vec::new(),
        };
        let head = bytes.min(PAGE - first % PAGE);
        let (mut named, mut left) = (vec![(first, head)], bytes - head);
        if left <= PAGE {
            named.extend((left > 0).then_some((second, left)));
            return named;
        }
        let entries = left.div_ceil(PAGE);
        named.push((second, 8 * entries));
        for entry in 0..entries {
            let mut page = [0; 8];
            if self.host.read(second + 8 * entry, &mut page).is_some() {
                named.push((u64::from_le_bytes(page), left.min(PAGE)));
            }
            left -= left.min(PAGE);
        }
        named
    }

    fn prps(&mut self, first: u64, second: u64, bytes: u64) -> Result<Vec<(u64, u64)>, Status> {
        if !first.is_multiple_of(4) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let head = bytes.min(PAGE - first % PAGE);
        let mut segments = vec![(first, head)];
        let mut left = bytes - head;
        if left == 0 {
            return Ok(segments);
        }
        let listed = left > PAGE;
        let entries = if listed { left.div_ceil(PAGE) } else { 1 };
        if listed {
            self.counters.prp_lists += 1;
            if second % PAGE + 8 * entries > PAGE || !second.is_multiple_of(8) {
                self.violation(format!("a PRP list of {entries} entries at {second:#x} crosses a page"));
                return Err(Status::PRP_OFFSET_INVALID);
            }
        }
        for entry in 0..entries {
            let page = if listed {
                self.dma_words::<1>(second + 8 * entry).ok_or(Status::DATA_TRANSFER_ERROR)?[0]
            } else {
                second
            };
            if !page.is_multiple_of(PAGE) {
                self.violation(format!("PRP entry {page:#x} has an offset"));
                return Err(Status::PRP_OFFSET_INVALID);
            }
            let length = left.min(PAGE);
            segments.push((page, length));
            left -= length;
        }
        Ok(segments)
    }
}

fn one_block(descriptor: SglDescriptor, bytes: u64) -> Result<Vec<(u64, u64)>, Status> {
    if descriptor.kind() != Some(SglKind::DataBlock) {
        return Err(Status::SGL_TYPE_INVALID);
    }
    if u64::from(descriptor.length) != bytes {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    Ok(vec![(descriptor.address, bytes)])
}
