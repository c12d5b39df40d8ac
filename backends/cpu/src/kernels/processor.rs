//! Who made the processor: what is fast differs where instructions do not.

use std::arch::x86_64::__cpuid;
use std::sync::LazyLock;

/// Whether it is AMD.
pub fn is_amd() -> bool {
    static AMD: LazyLock<bool> = LazyLock::new(|| {
        let vendor = __cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx]
            .map(u32::to_le_bytes)
            .as_flattened()
            == b"AuthenticAMD"
    });
    *AMD
}
