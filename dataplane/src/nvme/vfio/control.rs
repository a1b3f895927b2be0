//! What the control side knows of a controller, and the admin commands it sends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::admin::{AdminQueue, DATA_BYTES};
use super::board::Board;
use super::dma_memory::DmaMemory;
use super::dma_space::DmaSpace;
use super::doorbell::ShadowPages;
use super::events::Heard;
use super::identify::{ControllerInfo, IDENTIFY_BYTES, IdentifyData, NamespaceInfo, parse_namespace_list};
use super::link::Link;
use super::log_pages::{ERROR_ENTRY_BYTES, ErrorEntry, HEALTH_BYTES, HealthInfo};
use super::pci::PciFunction;
use super::power::PowerMarks;
use super::registers::Capabilities;
use super::rings::RingShape;
use super::terms::Terms;
use super::{ControllerOptions, ControllerState, OpenError};
use crate::memory::Region;
use crate::nvme::spec::{Status, admin};

/// An I/O queue, as the control side sees it.
pub(super) struct QueueRecord {
    pub(super) link: Arc<Link>,
    pub(super) shape: RingShape,
    pub(super) terms: Terms,
    /// Strays that were told to the log already.
    pub(super) told_strays: u64,
    /// Making it got no answer, or could not be undone: the controller may know it, whatever its link says, until it is
    /// stopped.
    pub(super) uncertain: bool,
    /// The core let go of it, but the controller did not: memory that is given back after the next reset.
    pub(super) left: Option<Vec<Arc<Region>>>,
}

/// A queue that was not made.
pub(super) struct NotMade {
    pub(super) error: OpenError,
    /// The controller may know it all the same, or a part of it.
    pub(super) uncertain: bool,
}

impl From<OpenError> for NotMade {
    fn from(error: OpenError) -> Self {
        Self { error, uncertain: false }
    }
}

/// What happened to a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ControlCounters {
    pub(super) resets: u64,
    pub(super) aborts: u64,
    pub(super) events: u64,
}

pub(super) struct Control {
    pub(super) function: Arc<dyn PciFunction>,
    pub(super) options: ControllerOptions,
    pub(super) admin: AdminQueue,
    pub(super) capabilities: Capabilities,
    pub(super) info: ControllerInfo,
    /// Active namespaces that can be driven.
    pub(super) namespaces: Vec<NamespaceInfo>,
    /// Those that cannot, and why.
    pub(super) refused: Vec<(u32, String)>,
    /// I/O queues that the controller granted; the longest list of records.
    pub(super) granted: u16,
    /// By queue identifier, less one.
    pub(super) queues: Vec<Option<QueueRecord>>,
    pub(super) shadows: Option<(ShadowPages, DmaMemory)>,
    /// Whether the controller looks at them.
    pub(super) shadowed: bool,
    pub(super) state: ControllerState,
    /// What the drive counted of its losses of power; `None` if it does not tell, or has no cache to lose.
    pub(super) power: Option<PowerMarks>,
    /// The subsystem was reset, and what that means for the cache is not decided yet.
    pub(super) subsystem_reset: bool,
    /// Milliseconds since the controller was opened.
    pub(super) now: u64,
    pub(super) counters: ControlCounters,
    pub(super) heard: Vec<Heard>,
    pub(super) board: Arc<Mutex<Board>>,
    /// Commands to abort, by queue and command identifier, once the controller takes another abort.
    pub(super) late: VecDeque<(u16, u16)>,
}

/// A controller that was not asked anything yet.
const UNKNOWN: ControllerInfo = ControllerInfo {
    vendor: 0,
    serial: String::new(),
    model: String::new(),
    firmware: String::new(),
    subsystem_nqn: String::new(),
    controller_id: 0,
    version: (0, 0, 0),
    max_transfer_bytes: None,
    volatile_cache: false,
    dataset_management: false,
    sgl: false,
    shadow_doorbells: false,
    directives: false,
    flexible_placement: false,
    abort_limit: 1,
    event_limit: 1,
    shutdown_time: Duration::ZERO,
    optional_events: 0,
    error_log_entries: 1,
    namespaces: 0,
    warning_temperature: 0,
    critical_temperature: 0,
};

impl Control {
    pub(super) fn new(
        function: Arc<dyn PciFunction>,
        options: ControllerOptions,
        capabilities: Capabilities,
        space: &DmaSpace,
    ) -> Result<Self, OpenError> {
        let admin = AdminQueue::new(Arc::clone(&function), options.admin_timeout, space).map_err(OpenError::Memory)?;
        Ok(Self {
            function,
            options,
            admin,
            capabilities,
            info: UNKNOWN,
            namespaces: Vec::new(),
            refused: Vec::new(),
            granted: 0,
            queues: Vec::new(),
            shadows: None,
            shadowed: false,
            state: ControllerState::Ready,
            power: None,
            subsystem_reset: false,
            now: 0,
            counters: ControlCounters::default(),
            heard: Vec::new(),
            board: Arc::new(Mutex::new(Board::new(UNKNOWN))),
            late: VecDeque::new(),
        })
    }

    /// Asks an enabled controller what it is, and sets it up for I/O queues.
    pub(super) fn introduce(&mut self, space: &DmaSpace) -> Result<(), OpenError> {
        let data = self.identify("Identify (controller)", admin::cns::CONTROLLER, 0)?;
        self.info = ControllerInfo::parse(&data)?;
        self.find_namespaces()?;
        self.grant_queues()?;
        self.share_doorbells(space)?;
        self.publish_identity();
        self.ask_for_events();
        Ok(())
    }

    fn identify(&mut self, command: &'static str, cns: u8, nsid: u32) -> Result<IdentifyData, OpenError> {
        const { assert!(IDENTIFY_BYTES == DATA_BYTES) };
        let mut data = [0; IDENTIFY_BYTES];
        self.admin.fetch(command, admin::identify(cns, nsid), &mut data)?;
        Ok(data)
    }

    /// Looks up the active namespaces. One that cannot be identified does not hinder the others.
    pub(super) fn find_namespaces(&mut self) -> Result<(), OpenError> {
        let list = self.identify("Identify (active namespaces)", admin::cns::ACTIVE_NAMESPACES, 0)?;
        let nsids = parse_namespace_list(&list, self.info.namespaces)?;
        let (mut namespaces, mut refused) = (Vec::new(), Vec::new());
        for nsid in nsids {
            match self.identify_namespace(nsid)? {
                Ok(info) => namespaces.push(info),
                Err(error) => refused.push((nsid, error.to_string())),
            }
        }
        (self.namespaces, self.refused) = (namespaces, refused);
        self.publish_identity();
        Ok(())
    }

    /// Looks one namespace up anew: it may have been formatted since, and not everybody tells.
    pub(super) fn find_namespace(&mut self, nsid: u32) -> Result<(), OpenError> {
        let found = self.identify_namespace(nsid)?;
        self.namespaces.retain(|info| info.nsid != nsid);
        self.refused.retain(|(refused, _)| *refused != nsid);
        match found {
            Ok(info) => self.namespaces.push(info),
            Err(error) => self.refused.push((nsid, error.to_string())),
        }
        self.namespaces.sort_by_key(|info| info.nsid);
        self.publish_identity();
        Ok(())
    }

    /// A namespace, or why it cannot be driven; an error if the controller cannot be asked.
    fn identify_namespace(&mut self, nsid: u32) -> Result<Result<NamespaceInfo, OpenError>, OpenError> {
        match self.identify("Identify (namespace)", admin::cns::NAMESPACE, nsid) {
            Ok(data) => Ok(NamespaceInfo::parse(nsid, &data)),
            Err(error @ OpenError::Admin { .. }) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    fn grant_queues(&mut self) -> Result<(), OpenError> {
        let asked = u32::from(self.options.queues.clamp(1, u16::MAX - 1)) - 1;
        let sqe = admin::set_features(admin::feature::NUMBER_OF_QUEUES, asked | (asked << 16));
        let answer = self.admin.run("Set Features (number of queues)", sqe)?.dword0;
        // The controller may grant fewer; more than asked for is no use to anybody.
        let granted = (answer & 0xFFFF).min(answer >> 16).min(asked) + 1;
        // Queues beyond those that were granted the first time keep their place, and are not brought back.
        self.granted = granted as u16;
        let records = self.queues.len().max(usize::from(self.granted));
        self.queues.resize_with(records, || None);
        Ok(())
    }

    /// Doorbell Buffer Config. A controller that refuses goes without, for good: it is only quicker with, and all queues
    /// ring the same way.
    fn share_doorbells(&mut self, space: &DmaSpace) -> Result<(), OpenError> {
        self.shadowed = false;
        self.options.shadow_doorbells &= self.info.shadow_doorbells;
        if !self.options.shadow_doorbells {
            return Ok(());
        }
        if self.shadows.is_none() {
            let bytes = 2 * ShadowPages::PAGE_BYTES as usize;
            let memory = DmaMemory::new(bytes, space).map_err(OpenError::Memory)?;
            self.shadows = Some((ShadowPages { region: Arc::clone(memory.region()) }, memory));
        }
        let Some((_, memory)) = &self.shadows else { return Ok(()) };
        memory.clear();
        let sqe = admin::doorbell_buffers(memory.iova(), memory.iova() + ShadowPages::PAGE_BYTES);
        match self.admin.run("Doorbell Buffer Config", sqe) {
            Err(OpenError::Admin { status, .. }) => {
                tracing::warn!(function = self.function.name(), %status, "the controller refuses shadow doorbells");
                // The pages stay mapped: queues that were made before may hold them.
                self.options.shadow_doorbells = false;
                Ok(())
            }
            other => {
                self.shadowed = other.is_ok();
                other.map(|_| ())
            }
        }
    }

    pub(super) fn health(&mut self) -> Result<HealthInfo, OpenError> {
        let mut page = [0; HEALTH_BYTES];
        let sqe = admin::get_log_page(admin::log::HEALTH, HEALTH_BYTES as u32);
        self.admin.fetch("Get Log Page (health)", sqe, &mut page)?;
        Ok(HealthInfo::parse(&page))
    }

    pub(super) fn errors(&mut self) -> Result<Vec<ErrorEntry>, OpenError> {
        let mut page = [0; DATA_BYTES];
        let entries = usize::from(self.info.error_log_entries).min(DATA_BYTES / ERROR_ENTRY_BYTES);
        let bytes = entries * ERROR_ENTRY_BYTES;
        let sqe = admin::get_log_page(admin::log::ERROR, bytes as u32);
        self.admin.fetch("Get Log Page (errors)", sqe, &mut page[..bytes])?;
        let (entries, _) = page[..bytes].as_chunks::<ERROR_ENTRY_BYTES>();
        Ok(entries.iter().filter_map(ErrorEntry::parse).collect())
    }

    /// Makes a queue pair known to the controller.
    pub(super) fn create_queue(&mut self, qid: u16, shape: &RingShape) -> Result<(), NotMade> {
        let cq = admin::create_cq(qid, shape.cq_entries, shape.cq_iova);
        let made = self.admin.run("Create I/O Completion Queue", cq);
        made.map_err(|error| NotMade { error, uncertain: self.admin.stuck() })?;
        let sq = admin::create_sq(qid, shape.sq_entries, shape.sq_iova);
        let Err(error) = self.admin.run("Create I/O Submission Queue", sq) else { return Ok(()) };
        let delete = admin::delete_queue(admin::opcode::DELETE_CQ, qid);
        let undone = !self.admin.stuck() && self.admin.run("Delete I/O Completion Queue", delete).is_ok();
        Err(NotMade { error, uncertain: !undone })
    }

    /// Makes the controller forget a queue pair. Afterwards it is through with every command of it.
    pub(super) fn delete_queue(&mut self, qid: u16) -> Result<(), OpenError> {
        let deletions = [
            (admin::opcode::DELETE_SQ, "Delete I/O Submission Queue"),
            (admin::opcode::DELETE_CQ, "Delete I/O Completion Queue"),
        ];
        for (opcode, command) in deletions {
            match self.admin.run(command, admin::delete_queue(opcode, qid)) {
                // There is none: as good as deleted. QEMU says of a missing completion queue that it is invalid.
                Err(OpenError::Admin { status, .. })
                    if same(status, Status::INVALID_QUEUE_ID) || same(status, Status::COMPLETION_QUEUE_INVALID) => {}
                other => _ = other?,
            }
        }
        Ok(())
    }

    /// The lowest queue identifier that is free.
    pub(super) fn free_qid(&self) -> Option<u16> {
        let usable = self.queues.iter().take(usize::from(self.granted));
        usable.zip(1..).find(|(record, _)| record.is_none()).map(|(_, qid)| qid)
    }
}

/// Whether two statuses are the same but for the bits about retries.
fn same(one: Status, other: Status) -> bool {
    one.code_type() == other.code_type() && one.code() == other.code()
}
