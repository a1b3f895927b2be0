//! The processor's own counter.
#![allow(unsafe_code)]

use std::time::Instant;

use super::{Clock, Ticks};

/// How long the counter is held against the system's clock at start-up. With brackets of some tens of nanoseconds
/// the error is a few parts in a million.
#[cfg(target_arch = "x86_64")]
const CALIBRATION: std::time::Duration = std::time::Duration::from_millis(10);

/// Reads the time-stamp counter (x86-64) or the virtual counter (aarch64) without a system call. Where the
/// time-stamp counter changes its pace with the core's, the system's monotonic clock is read in its place.
///
/// All readings of one clock and its copies can be compared, across cores, too.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    counter: bool,
    ticks_per_second: u64,
    /// Nanoseconds of a tick in units of 2^-32, so that converting a reading takes no division.
    nanos_per_tick: u64,
    origin: Instant,
}

impl TscClock {
    /// Finds out what the machine has. Takes about 10 milliseconds on x86-64: make one and copy it.
    #[must_use]
    pub fn new() -> Self {
        let origin = Instant::now();
        match counter_frequency() {
            Some(ticks_per_second) => Self::ticking(true, ticks_per_second, origin),
            None => Self::monotonic(origin),
        }
    }

    /// Ticks of a nanosecond of the system's clock.
    const fn monotonic(origin: Instant) -> Self {
        Self::ticking(false, 1_000_000_000, origin)
    }

    const fn ticking(counter: bool, ticks_per_second: u64, origin: Instant) -> Self {
        let nanos_per_tick = ((1_000_000_000_u128 << 32) / ticks_per_second as u128) as u64;
        Self { counter, ticks_per_second, nanos_per_tick, origin }
    }

    /// Whether the processor's counter is read, and not the system's clock.
    #[must_use]
    pub const fn reads_counter(&self) -> bool {
        self.counter
    }
}

impl Default for TscClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TscClock {
    #[inline]
    fn now(&self) -> Ticks {
        if self.counter { Ticks(read_counter()) } else { Ticks(self.origin.elapsed().as_nanos() as u64) }
    }

    fn ticks_per_second(&self) -> u64 {
        self.ticks_per_second
    }

    #[inline]
    fn nanos_of_ticks(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.nanos_per_tick)) >> 32) as u64
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux does not forbid it to processes.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks per second, if the counter runs at one pace whatever the core does.
#[cfg(target_arch = "x86_64")]
fn counter_frequency() -> Option<u64> {
    // Newer compilers call the intrinsic safe, older ones do not.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has the instruction.
    let leaf = |number| unsafe { core::arch::x86_64::__cpuid(number) };
    // Leaf 8000_0007h, EDX bit 8: invariant TSC (AMD APM 3, E.4.6; Intel SDM 3A, 18.17.1).
    let invariant = leaf(0x8000_0000).eax >= 0x8000_0007 && leaf(0x8000_0007).edx & 1 << 8 != 0;
    if !invariant {
        return None;
    }
    let (start_ticks, start) = bracket();
    while start.elapsed() < CALIBRATION {
        std::hint::spin_loop();
    }
    let (end_ticks, end) = bracket();
    let nanos = end.duration_since(start).as_nanos();
    let ticks = u128::from(end_ticks.checked_sub(start_ticks)?);
    u64::try_from(ticks * 1_000_000_000 / nanos.max(1)).ok().filter(|frequency| *frequency > 0)
}

/// One moment by both clocks: of some readings of the counter on either side of one of the system's clock the closest.
#[cfg(target_arch = "x86_64")]
fn bracket() -> (u64, Instant) {
    let mut best = (u64::MAX, 0, Instant::now());
    for _ in 0..16 {
        let before = read_counter();
        let now = Instant::now();
        let width = read_counter().saturating_sub(before);
        if width < best.0 {
            best = (width, before + width / 2, now);
        }
    }
    (best.1, best.2)
}

#[cfg(target_arch = "aarch64")]
fn read_counter() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter that Linux lets processes read; no memory is touched. The barrier keeps it from being
    // read before the instructions that came earlier.
    unsafe { core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack, nomem)) };
    ticks
}

/// Ticks per second, as the firmware says.
#[cfg(target_arch = "aarch64")]
fn counter_frequency() -> Option<u64> {
    let frequency: u64;
    // SAFETY: reads a register that Linux lets processes read; no memory is touched.
    unsafe { core::arch::asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nostack, nomem)) };
    (frequency > 0).then_some(frequency)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read_counter() -> u64 {
    0
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter_frequency() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rises_with_time(clock: TscClock) {
        let begin = Instant::now();
        let first = clock.now();
        while begin.elapsed() < Duration::from_millis(1) {
            assert!(clock.now() >= first);
        }
        let nanos = clock.nanos_of_ticks(clock.now().since(first));
        assert!(nanos >= 900_000, "a millisecond passed, the clock says {nanos} ns");
    }

    #[test]
    fn time_passes_at_the_right_pace() {
        rises_with_time(TscClock::new());
    }

    #[test]
    fn without_a_counter_the_system_clock_is_read() {
        let clock = TscClock::monotonic(Instant::now());
        assert!(!clock.reads_counter());
        rises_with_time(clock);
    }

    #[test]
    fn ticks_and_times_convert() {
        let clock = TscClock::monotonic(Instant::now());
        assert_eq!(clock.ticks_of_micros(7), 7000);
        assert_eq!(clock.nanos_of_ticks(7000), 7000);
    }
}
