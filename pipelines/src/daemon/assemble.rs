//! From the command line to an engine.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use dataplane::core::CoreLock;
use dataplane::fabric::Admission;
use dataplane::memory::{HugePages, PageSize};
use dataplane::nvme::uring::OpenError;

use super::engine::{DeviceError, EnginePlan, FormatPolicy, PrepareError, StoreKind, StoreSource, prepare};
use super::{DeviceOption, DeviceOptions, Exit, Format, Options, StartError, StoreOption};
use crate::control::Engine;
use crate::store::StoreError;

/// Builds the engine that the options ask for. Its cores do not run yet.
///
/// # Errors
/// What is wrong, with the exit code that says so.
pub fn assemble(options: &Options, admission: Arc<dyn Admission>) -> Result<Arc<dyn Engine>, StartError> {
    let store = match &options.store {
        Some(store) => source(store),
        None => devices(&options.device).map_err(|error| StartError::new(Exit::Usage, error))?,
    };
    if !options.disable_cpumask_locks {
        let locks = CoreLock::claim_all(options.cpumask).map_err(|error| StartError::new(Exit::Cores, error))?;
        // Held for as long as the process lives: the kernel lets go of them at its end, however that comes.
        std::mem::forget(locks);
    }
    let plan = EnginePlan {
        cpus: cpus(options),
        store,
        huge: if options.no_huge { HugePages::Off } else { HugePages::Prefer(PageSize::Size2M) },
        idle: options.idle,
        index_bytes: options.mem_size.map(|megabytes| megabytes << 20),
        seed: seed(),
    };
    prepare(plan, admission).map_err(|error| StartError::new(exit_of(&error), error))
}

/// The main core first.
fn cpus(options: &Options) -> Vec<u32> {
    let main = options.main_core.or_else(|| options.cpumask.iter().next());
    let others = options.cpumask.iter().filter(|&cpu| Some(cpu) != main);
    main.into_iter().chain(others).collect()
}

fn source(option: &StoreOption) -> StoreSource {
    match option {
        StoreOption::File { path, size, segment, shards, format } => StoreSource {
            kind: StoreKind::File { path: path.clone(), create_bytes: *size },
            format: policy(*format),
            segment_bytes: *segment,
            shards: *shards,
        },
        StoreOption::Ram { size } => fresh(StoreKind::Ram { bytes: *size }),
        StoreOption::Null { size } => fresh(StoreKind::Null { bytes: *size }),
    }
}

fn devices(options: &[DeviceOption]) -> Result<StoreSource, String> {
    let DeviceOptions { addresses, segment, shards, format } = DeviceOptions::of(options)?;
    if addresses.is_empty() {
        return Err("--store or --device is missing".to_owned());
    }
    Ok(StoreSource { kind: StoreKind::Devices(addresses), format: policy(format), segment_bytes: segment, shards })
}

fn policy(format: Format) -> FormatPolicy {
    match format {
        Format::Never => FormatPolicy::Never,
        Format::IfEmpty => FormatPolicy::IfBlank,
        Format::Force => FormatPolicy::Force,
    }
}

fn fresh(kind: StoreKind) -> StoreSource {
    StoreSource { kind, format: FormatPolicy::Force, segment_bytes: None, shards: None }
}

fn exit_of(error: &PrepareError) -> Exit {
    match error {
        PrepareError::Open(OpenError::Locked { .. }) => Exit::Locked,
        PrepareError::Store { cause: StoreError::Setting(_), .. } => Exit::Usage,
        PrepareError::Device { cause, .. } if cause.in_use() => Exit::Locked,
        PrepareError::Device { cause: DeviceError::TooFewQueues { .. }, .. } => Exit::Cores,
        PrepareError::Device { cause: DeviceError::Twice, .. } => Exit::Usage,
        PrepareError::Device { cause: DeviceError::Thread(_), .. } => Exit::Failure,
        PrepareError::Open(_) | PrepareError::Store { .. } | PrepareError::Device { .. } | PrepareError::Set { .. } => {
            Exit::Store
        }
        PrepareError::TooManyCores { .. } => Exit::Cores,
        PrepareError::Memory(_) => Exit::Memory,
        PrepareError::System { .. } | PrepareError::Attach(_) => Exit::Failure,
    }
}

/// 64 bits that nobody outside can guess: the standard library seeds its hash maps from the system's randomness.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
