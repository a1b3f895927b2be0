//! Asking the cache for a line ahead of its use.
#![allow(unsafe_code)]

/// Asks for the cache line that `value` begins in.
#[inline]
pub fn line<T>(value: &T) {
    at(std::ptr::from_ref(value).cast());
}

/// Asks for the cache lines that `value` begins and ends in.
#[inline]
pub fn span<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    at(start);
    at(start.wrapping_add(size_of::<T>().saturating_sub(1)));
}

#[inline]
fn at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM is a hint that never faults, whatever the address, and changes no register or memory.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
