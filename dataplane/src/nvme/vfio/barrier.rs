//! The order in which a device sees stores, and in which the processor sees a device's.
//!
//! On x86-64 stores reach memory, and loads are made, in the program's order, so only the compiler must be held back.
//! On aarch64 the device is in the outer shareable domain, which the fences of the language do not reach (Arm
//! Architecture Reference Manual, "Data Memory Barrier").
#![allow(unsafe_code)]

use std::sync::atomic::{Ordering, compiler_fence, fence};

/// Holds the compiler back; on a processor that nothing is known of, that as well.
#[inline(always)]
fn order_program() {
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Stores to memory before it are seen by a device before stores to registers after it.
#[inline(always)]
pub(super) fn before_doorbell() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier; no operands, no effect but order.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    order_program();
}

/// Loads after it see what the device stored before what loads before it saw.
#[inline(always)]
pub(super) fn after_phase() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    order_program();
}

/// A store before it is seen before a load after it is made.
#[inline(always)]
pub(super) fn store_then_load() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    fence(Ordering::SeqCst);
}
