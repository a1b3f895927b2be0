//! NVMe controllers that the daemon drives itself.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataplane::fabric::vfio_user::ConnectOptions;
use dataplane::fabric::vfio_user::initiator::{ConnectError, RemoteFunction};
use dataplane::memory::{Arena, ArenaError, HugePages, Region, RegionSlot};
use dataplane::nvme::vfio::kernel::{BusAddress, Interface, KernelFunction};
use dataplane::nvme::vfio::{
    Attendant, Controller, ControllerOptions, ControllerState, OpenError, PciError, PciFunction, VfioDevice, VfioQueue,
};

use super::device::{MEMORY_SLOTS, QUEUE_DEPTH, QueueSource};
use super::volume::{Meters, Opened};
use crate::control::EngineError;
use crate::control::report::{NvmeControllerReport, NvmeErrorReport, NvmeEventReport, NvmeHealthReport};

/// How often a controller is looked after.
const PERIOD: Duration = Duration::from_millis(100);

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// On the PCI bus, bound to VFIO.
    Bus(BusAddress),
    /// Another process, by the folder of its vfio-user socket.
    Process(PathBuf),
}

/// A namespace of a controller, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAddress {
    place: Place,
    nsid: u32,
}

impl FromStr for DeviceAddress {
    type Err = String;

    /// Reads `vfio:0000:01:00.0[/NSID]` or `vfio-user:DIR[/NSID]`; without a number, namespace 1 is meant. A folder whose own
    /// name is a number needs the namespace's after it.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "expected vfio:0000:01:00.0[/NSID] or vfio-user:DIR[/NSID]";
        let (kind, rest) = text.split_once(':').ok_or(FORMS)?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (place, nsid) = match rest.rsplit_once('/') {
            Some((place, number)) if is_number(number) => (place, number.parse().unwrap_or(0)),
            _ => (rest, 1),
        };
        if nsid == 0 || nsid == u32::MAX {
            return Err("a namespace's number must be 1 to 4294967294".into());
        }
        let place = match kind {
            "vfio" => Place::Bus(place.parse().map_err(|error| format!("{error}"))?),
            "vfio-user" if !place.is_empty() => Place::Process(place.into()),
            _ => return Err(FORMS.into()),
        };
        Ok(Self { place, nsid })
    }
}

impl std::fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Bus(address) => write!(f, "vfio:{address}/{}", self.nsid),
            Place::Process(dir) => write!(f, "vfio-user:{}/{}", dir.display(), self.nsid),
        }
    }
}

/// Why a controller cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The controller, or the bus.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The process that plays it.
    #[error(
        "cannot reach the controller's process: {0}; is it started, and does its folder have a socket called cntrl?"
    )]
    Connect(#[from] ConnectError),
    /// It is given twice.
    #[error("it is given twice; name each device once")]
    Twice,
    /// The namespace takes no writes.
    #[error("the namespace is write-protected; take the protection off, or use another")]
    ReadOnly,
    /// One queue for each core and namespace cannot be had.
    #[error(
        "the controller has {has} I/O queues, and {needed} are needed, one a core and namespace; start on fewer cores"
    )]
    TooFewQueues {
        /// How many it has.
        has: u16,
        /// How many would do.
        needed: usize,
    },
    /// No thread to look after it.
    #[error("no thread to look after it: {0}")]
    Thread(io::Error),
}

impl DeviceError {
    /// Whether another process has it.
    #[must_use]
    pub fn in_use(&self) -> bool {
        matches!(self, Self::Open(OpenError::Pci(PciError::InUse(_))))
    }
}

/// A namespace from which each core gets its queue.
#[derive(Clone)]
pub(super) struct NvmeSource {
    device: VfioDevice,
    remote: bool,
}

impl QueueSource for NvmeSource {
    type Queue = VfioQueue;

    fn queue(&self) -> io::Result<VfioQueue> {
        let depth = QUEUE_DEPTH.min(self.device.max_depth());
        self.device.queue(depth, MEMORY_SLOTS).map_err(io::Error::other)
    }

    fn needs_files(&self) -> bool {
        self.remote
    }

    fn arena(&self, bytes: usize, huge: HugePages) -> Result<Arena, ArenaError> {
        let slot = RegionSlot(0);
        if self.remote { Arena::shared(bytes, slot) } else { Arena::new(bytes, huge, slot) }
    }
}

/// A namespace that is in use.
#[derive(Clone, Debug)]
pub(super) struct UsedNamespace {
    pub(super) nsid: u32,
    pub(super) meters: Meters,
    /// NGUID or EUI-64, as text.
    pub(super) id: Option<String>,
}

/// A controller that is in use, and the thread that looks after it.
struct Driven {
    name: String,
    place: Place,
    // Before the controller, so that nobody resets what is being shut down.
    _attendant: Attendant,
    controller: Controller,
    namespaces: Vec<UsedNamespace>,
}

/// Every controller that is in use. Empty for stores that lie on none.
#[derive(Default)]
pub(super) struct Controllers {
    driven: Mutex<Vec<Driven>>,
    remote: bool,
}

/// Controllers, and the namespaces of theirs that were asked for, in that order.
type InUse = (Controllers, Vec<Opened<NvmeSource>>);

/// Opens every controller once, and from each the namespaces that are asked for.
pub(super) fn open(addresses: &[DeviceAddress], cores: usize) -> Result<InUse, (String, DeviceError)> {
    let twice = addresses.iter().enumerate().find(|(at, address)| addresses[..*at].contains(address));
    if let Some((_, address)) = twice {
        return Err((address.to_string(), DeviceError::Twice));
    }
    let mut driven: Vec<Driven> = Vec::new();
    let mut opened = Vec::new();
    for address in addresses {
        let failed = |error: DeviceError| (address.to_string(), error);
        if driven.iter().all(|other| other.place != address.place) {
            let nsids: Vec<u32> =
                addresses.iter().filter(|other| other.place == address.place).map(|other| other.nsid).collect();
            let name = format!("Nvme{}", driven.len());
            driven.push(Driven::open(name, &address.place, &nsids, cores).map_err(failed)?);
        }
        for controller in &driven {
            if controller.place == address.place {
                opened.push(controller.source(address).map_err(failed)?);
            }
        }
    }
    let remote = addresses.iter().any(|address| matches!(address.place, Place::Process(_)));
    Ok((Controllers { driven: Mutex::new(driven), remote }, opened))
}

fn function_at(place: &Place) -> Result<Arc<dyn PciFunction>, DeviceError> {
    match place {
        Place::Bus(address) => Ok(KernelFunction::open(*address, Interface::Auto).map_err(OpenError::from)?),
        Place::Process(dir) => Ok(RemoteFunction::connect(dir, &ConnectOptions::default())?),
    }
}

impl Driven {
    fn open(name: String, place: &Place, nsids: &[u32], cores: usize) -> Result<Self, DeviceError> {
        let needed = cores * nsids.len();
        let options = ControllerOptions { queues: needed.min(4096) as u16, ..ControllerOptions::default() };
        let controller = Controller::open(function_at(place)?, options)?;
        let info = controller.info();
        tracing::info!(name, function = controller.name(), model = info.model, serial = info.serial, "NVMe controller");
        if usize::from(controller.queues()) < needed {
            return Err(DeviceError::TooFewQueues { has: controller.queues(), needed });
        }
        let namespaces = nsids.iter().map(|nsid| used(&controller, *nsid)).collect::<Result<Vec<_>, _>>()?;
        let meters: Vec<Meters> = namespaces.iter().map(|namespace| namespace.meters.clone()).collect();
        let mut told = false;
        let watch = move |controller: &Controller| {
            let gone = matches!(controller.state(), ControllerState::Removed | ControllerState::Failed(_));
            if gone {
                // Again each time, for queues made since.
                meters.iter().for_each(Meters::set_gone);
            }
            if gone && !told {
                told = true;
                tracing::error!(
                    function = controller.name(),
                    "the store goes on without the device: its blocks are misses"
                );
            }
        };
        let attendant = Attendant::start(controller.clone(), PERIOD, watch).map_err(DeviceError::Thread)?;
        Ok(Self { name, place: place.clone(), _attendant: attendant, controller, namespaces })
    }

    fn source(&self, address: &DeviceAddress) -> Result<Opened<NvmeSource>, DeviceError> {
        let device = self.controller.namespace(address.nsid)?;
        let used = self.namespaces.iter().find(|used| used.nsid == address.nsid);
        let meters = used.map(|used| used.meters.clone()).unwrap_or_default();
        let remote = matches!(address.place, Place::Process(_));
        Ok(Opened { name: address.to_string(), source: NvmeSource { device, remote }, meters })
    }
}

fn used(controller: &Controller, nsid: u32) -> Result<UsedNamespace, DeviceError> {
    let device = controller.namespace(nsid)?;
    let namespace = device.namespace();
    if !namespace.writable {
        return Err(DeviceError::ReadOnly);
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let id = match (namespace.nguid, namespace.eui64) {
        ([0, ..], [0, ..]) if namespace.nguid == [0; 16] && namespace.eui64 == [0; 8] => None,
        (nguid, eui64) if nguid == [0; 16] => Some(hex(&eui64)),
        (nguid, _) => Some(hex(&nguid)),
    };
    Ok(UsedNamespace { nsid, meters: Meters::default(), id })
}

impl Controllers {
    fn driven(&self) -> MutexGuard<'_, Vec<Driven>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of them is another process, which must be handed the memory that it is to reach.
    pub(super) fn any_remote(&self) -> bool {
        self.remote
    }

    /// Shuts them down. Their queues are gone by then.
    pub(super) fn close(&self) {
        let driven = std::mem::take(&mut *self.driven());
        drop(driven);
    }

    fn each(&self) -> Vec<Controller> {
        self.driven().iter().map(|driven| driven.controller.clone()).collect()
    }

    /// Maps memory for all of them, or for none.
    pub(super) fn hold_memory(&self, region: &Arc<Region>) -> io::Result<()> {
        let controllers = self.each();
        for (at, controller) in controllers.iter().enumerate() {
            if let Err(error) = controller.hold_memory(region) {
                controllers[..at].iter().for_each(|controller| release(controller, region));
                return Err(io::Error::new(error.kind(), format!("{}: {error}", controller.name())));
            }
        }
        Ok(())
    }

    /// Takes back what [`hold_memory`](Self::hold_memory) gave.
    pub(super) fn release_memory(&self, region: &Arc<Region>) {
        self.each().iter().for_each(|controller| release(controller, region));
    }

    fn find(&self, name: &str) -> Result<(Controller, Place), EngineError> {
        let found = self.driven().iter().find(|driven| driven.name == name).map(Driven::both);
        found.ok_or_else(|| EngineError {
            errno: libc::ENODEV,
            message: format!("there is no NVMe controller {name:?}; see bdev_nvme_get_controllers"),
        })
    }

    /// What is known of each.
    pub(super) fn reports(&self) -> Vec<NvmeControllerReport> {
        // Not under the lock: a controller that is being reset keeps who asks waiting.
        let all: Vec<_> =
            self.driven().iter().map(|it| (it.name.clone(), it.place.clone(), it.controller.clone())).collect();
        all.into_iter().map(|(name, place, controller)| report(name, &place, &controller)).collect()
    }

    /// The namespaces in use, each with the name of its controller.
    pub(super) fn namespaces(&self) -> Vec<(String, UsedNamespace)> {
        let driven = self.driven();
        let of = |it: &Driven| it.namespaces.iter().map(|used| (it.name.clone(), used.clone())).collect::<Vec<_>>();
        driven.iter().flat_map(of).collect()
    }

    pub(super) fn reset(&self, name: &str) -> Result<(), EngineError> {
        self.find(name)?.0.reset().map_err(|error| refused(&error))
    }

    pub(super) fn health(&self, name: &str) -> Result<NvmeHealthReport, EngineError> {
        let (controller, place) = self.find(name)?;
        let health = controller.health().map_err(|error| refused(&error))?;
        let info = controller.info();
        // JSON's numbers end at 64 bits in most readers.
        let count = |wide: u128| u64::try_from(wide).unwrap_or(u64::MAX);
        Ok(NvmeHealthReport {
            model_number: info.model,
            serial_number: info.serial,
            firmware_revision: info.firmware,
            traddr: place.traddr(),
            critical_warning: health.critical_warning,
            temperature_celsius: i64::from(health.temperature) - 273,
            available_spare_percentage: health.available_spare,
            available_spare_threshold_percentage: health.available_spare_threshold,
            percentage_used: health.percentage_used,
            data_units_read: count(health.data_units_read),
            data_units_written: count(health.data_units_written),
            host_read_commands: count(health.host_read_commands),
            host_write_commands: count(health.host_write_commands),
            controller_busy_time: count(health.controller_busy_minutes),
            power_cycles: count(health.power_cycles),
            power_on_hours: count(health.power_on_hours),
            unsafe_shutdowns: count(health.unsafe_shutdowns),
            media_errors: count(health.media_errors),
            num_err_log_entries: count(health.error_log_entries),
            warning_temperature_time_minutes: health.warning_temperature_minutes,
            critical_composite_temperature_time_minutes: health.critical_temperature_minutes,
        })
    }

    /// The error log, and the events since this was last asked.
    pub(super) fn errors(&self, name: &str) -> Result<(Vec<NvmeErrorReport>, Vec<NvmeEventReport>), EngineError> {
        let (controller, _) = self.find(name)?;
        let entries = controller.errors().map_err(|error| refused(&error))?;
        let entry = |it: dataplane::nvme::vfio::ErrorEntry| NvmeErrorReport {
            count: it.count,
            sqid: it.sqid,
            cid: it.cid,
            status: it.status.to_string(),
            lba: it.lba,
            nsid: it.nsid,
        };
        let event = |it: dataplane::nvme::vfio::ControllerEvent| NvmeEventReport {
            kind: it.kind,
            information: it.information,
            log_page: it.log_page,
        };
        let events = controller.take_events();
        Ok((entries.into_iter().map(entry).collect(), events.into_iter().map(event).collect()))
    }
}

impl Driven {
    fn both(&self) -> (Controller, Place) {
        (self.controller.clone(), self.place.clone())
    }
}

impl Place {
    fn trtype(&self) -> &'static str {
        match self {
            Self::Bus(_) => "PCIe",
            Self::Process(_) => "VFIOUSER",
        }
    }

    fn traddr(&self) -> String {
        match self {
            Self::Bus(address) => address.to_string(),
            Self::Process(dir) => Path::display(dir).to_string(),
        }
    }
}

fn release(controller: &Controller, region: &Arc<Region>) {
    if let Err(error) = controller.release_memory(region) {
        tracing::error!(function = controller.name(), %error, "a client's memory stays mapped");
    }
}

fn refused(error: &OpenError) -> EngineError {
    let errno = match error {
        OpenError::Gone => libc::ENODEV,
        OpenError::TimedOut { .. } => libc::ETIMEDOUT,
        _ => libc::EIO,
    };
    EngineError { errno, message: error.to_string() }
}

fn report(name: String, place: &Place, controller: &Controller) -> NvmeControllerReport {
    let (info, status) = (controller.info(), controller.status());
    let (major, minor, tertiary) = info.version;
    // SPDK's words for a controller's states.
    let state = match &status.state {
        ControllerState::Ready => "enabled",
        ControllerState::Resetting => "resetting",
        ControllerState::Failed(_) => "failed",
        ControllerState::Removed => "deleting",
    };
    NvmeControllerReport {
        name,
        state: state.into(),
        trtype: place.trtype().into(),
        traddr: place.traddr(),
        cntlid: info.controller_id,
        vendor: info.vendor,
        model: info.model,
        serial: info.serial,
        firmware: info.firmware,
        subnqn: info.subsystem_nqn,
        version: format!("{major}.{minor}.{tertiary}"),
        resets: status.resets,
        aborts: status.aborts,
        events: status.events,
        stray_completions: status.stray_completions,
        queues: status.queues,
        mappings: status.mappings as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("vfio:0000:01:00.0", "vfio:0000:01:00.0/1"),
            ("vfio:81:00.1/3", "vfio:0000:81:00.1/3"),
            ("vfio-user:/run/ssd", "vfio-user:/run/ssd/1"),
            ("vfio-user:/run/ssd/2", "vfio-user:/run/ssd/2"),
            ("vfio-user:/run/muser/8/1", "vfio-user:/run/muser/8/1"),
        ] {
            assert_eq!(text.parse::<DeviceAddress>().unwrap().to_string(), written, "{text}");
        }
        for text in [
            "",
            "vfio:",
            "vfio:x",
            "vfio:0000:01:00.0/0",
            "vfio:0000:01:00.0/x",
            "vfio-user:",
            "pci:01:00.0",
            "vfio-user:/x/99999999999",
            "vfio:0000:01:00.0/4294967295",
        ] {
            assert!(text.parse::<DeviceAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_named_with_its_cure() {
        let address: DeviceAddress = "vfio-user:/nowhere/at/all".parse().unwrap();
        let Err((name, error)) = open(std::slice::from_ref(&address), 1) else { panic!("it is not there") };
        assert_eq!(name, "vfio-user:/nowhere/at/all/1");
        assert!(error.to_string().contains("is it started") && !error.in_use(), "{error}");
        let absent: DeviceAddress = "vfio:fffe:ff:1f.7".parse().unwrap();
        let Err((_, error)) = open(&[absent], 1) else { panic!("it is not there") };
        assert!(!error.to_string().is_empty() && !error.in_use());
        let Err((_, error)) = open(&[address.clone(), address], 1) else { panic!("it is not there") };
        assert!(matches!(error, DeviceError::Twice));
    }
}
