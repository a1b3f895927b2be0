//! `kvperf nvme`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use dataplane::core::TscClock;
use dataplane::nvme::vfio::kernel::{BusAddress, Interface, KernelFunction};
use dataplane::nvme::vfio::{Attendant, Controller, ControllerOptions, VfioDevice};
use serde::Serialize;

use super::connection::pin;
use crate::measure::Percentiles;
use crate::nvme::{Pattern, RandomReads, ReadMeasured};
use crate::report::{Outputs, Table, count, micros};
use crate::size;

/// How often the control side looks after the controller.
const ATTENDANCE: Duration = Duration::from_millis(100);

/// Options of `kvperf nvme`.
#[derive(Args, Debug)]
pub struct Nvme {
    /// The drive, vfio:0000:01:00.0[/NSID]; bind it first with scripts/setup.sh bind 0000:01:00.0
    #[arg(long, value_name = "DEVICE")]
    device: Namespace,
    /// Size of each read
    #[arg(long, default_value = "4K", value_parser = size::parse_value_bytes)]
    bytes: u32,
    /// Reads in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Time to measure
    #[arg(long, default_value = "5s", value_parser = size::parse_duration)]
    duration: Duration,
    /// Time before that which does not count
    #[arg(long, default_value = "500ms", value_parser = size::parse_duration)]
    warm_up: Duration,
    /// Seed of the order of reads
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run on this core
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
    #[command(flatten)]
    outputs: Outputs,
}

/// A namespace of a controller on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Namespace {
    address: BusAddress,
    nsid: u32,
}

impl FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("vfio:").ok_or("expected vfio:0000:01:00.0[/NSID]")?;
        let (address, nsid) = rest.split_once('/').unwrap_or((rest, "1"));
        let address = address.parse().map_err(|error| format!("{error}"))?;
        let nsid = nsid.parse().map_err(|_| format!("{nsid:?} is no number of a namespace"))?;
        Ok(Self { address, nsid })
    }
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    device: String,
    model: String,
    bytes: u32,
    depth: u32,
    seconds: f64,
    reads: u64,
    reads_per_s: f64,
    latency: Percentiles,
}

impl Nvme {
    /// Measures.
    ///
    /// # Errors
    /// If the drive cannot be driven, a read fails, or a result cannot be written.
    pub fn run(&self) -> anyhow::Result<()> {
        self.outputs.prepare()?;
        let function = KernelFunction::open(self.device.address, Interface::Auto).context("--device")?;
        let controller = Controller::open(function, ControllerOptions::default()).context("--device")?;
        // Before this thread is pinned: the other is not to run on the same core.
        let _attendant = Attendant::start(controller.clone(), ATTENDANCE, |_| ())?;
        let device = controller.namespace(self.device.nsid).context("--device")?;
        pin(self.cpu)?;
        let measured = self.measure(&device)?;
        let report = self.report(controller.info().model, &measured);
        println!("{}", table(&report));
        self.outputs.write_json(&report)
    }

    fn measure(&self, device: &VfioDevice) -> anyhow::Result<ReadMeasured> {
        let queue = device.queue(self.depth, 1).context("--depth")?;
        let pattern = Pattern { bytes: self.bytes, depth: self.depth, seed: self.seed };
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        RandomReads::new(queue, pattern)?.run(nanos(self.warm_up), nanos(self.duration), &TscClock::new())
    }

    fn report(&self, model: String, measured: &ReadMeasured) -> Report {
        let seconds = measured.nanos as f64 / 1e9;
        Report {
            command: "nvme",
            device: format!("vfio:{}/{}", self.device.address, self.device.nsid),
            model,
            bytes: self.bytes,
            depth: self.depth,
            seconds,
            reads: measured.reads,
            reads_per_s: measured.reads as f64 / seconds.max(1e-9),
            latency: measured.latency.percentiles(),
        }
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(&["device", "reads/s", "p50", "p99", "p99.9"]);
    table.row(&[
        &report.device,
        &count(report.reads_per_s as u64),
        &micros(report.latency.p50_us),
        &micros(report.latency.p99_us),
        &micros(report.latency.p999_us),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        let namespace = |text: &str| text.parse::<Namespace>().map(|found| (found.address.to_string(), found.nsid));
        assert_eq!(namespace("vfio:01:00.0"), Ok(("0000:01:00.0".to_owned(), 1)));
        assert_eq!(namespace("vfio:0000:01:00.0/3"), Ok(("0000:01:00.0".to_owned(), 3)));
        for text in ["0000:01:00.0", "vfio:", "vfio:x/1", "vfio:0000:01:00.0/x", "vfio:0000:01:00.0/"] {
            assert!(namespace(text).is_err(), "{text}");
        }
    }
}
