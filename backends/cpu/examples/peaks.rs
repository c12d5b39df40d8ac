//! What one core does at most, from registers alone: the limits that products of many tokens are measured against.
//!
//! `cargo run --release -p odmoe-backend-cpu --example peaks`
//!
//! Operations a second, a multiply-add as two; the best of many runs of a millisecond or so.

#[cfg(target_arch = "x86_64")]
fn main() {
    x86::print_all();
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("no peaks are known for this architecture");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use odmoe_backend_cpu::KernelSet;
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::time::Instant;

    const ROUNDS: usize = 100_000;
    /// As many running sums as hide the latency of what adds to them.
    const SUMS: usize = 16;

    pub fn print_all() {
        if KernelSet::Avx512.is_available() {
            // SAFETY: the machine has AVX-512 F and VNNI.
            let floats = best(SUMS * 16 * 2, || unsafe { fused_multiply_adds() });
            // SAFETY: as above.
            let integers = best(SUMS * 64 * 2, || unsafe { dot_products() });
            println!("AVX-512 F32 fused multiply-add  {floats:8.0} GFLOP/s");
            println!("AVX-512 VNNI int8               {integers:8.0} GOP/s");
        }
        if KernelSet::Amx.is_available() {
            // SAFETY: the machine has tiles, and the system lets this process use them.
            let tiles = best(4 * 16 * 16 * 64 * 2, || unsafe { tile_products() });
            println!("AMX int8                        {tiles:8.0} GOP/s");
        } else {
            println!("AMX int8                        not available");
        }
    }

    /// 10^9 operations a second, of a loop that does `operations` each round.
    fn best(operations: usize, mut rounds: impl FnMut()) -> f64 {
        let mut seconds = f64::MAX;
        for _ in 0..50 {
            let start = Instant::now();
            rounds();
            seconds = seconds.min(start.elapsed().as_secs_f64());
        }
        (operations * ROUNDS) as f64 / seconds / 1e9
    }

    #[target_feature(enable = "avx512f")]
    fn fused_multiply_adds() {
        let factor = _mm512_set1_ps(black_box(0.5));
        let mut sums = [factor; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(factor, factor, *sum);
            }
            keep_round();
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot_products() {
        let factor = _mm512_set1_epi8(black_box(1));
        let mut sums = [factor; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, factor, factor);
            }
            keep_round();
        }
        black_box(sums);
    }

    /// Keeps the compiler from making one round of many.
    #[inline(always)]
    fn keep_round() {
        // SAFETY: nothing is run.
        unsafe { asm!("", options(nomem, nostack, preserves_flags)) }
    }

    /// Palette 1, eight tiles of sixteen rows of 64 bytes.
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);

    static CONFIGURATION: Configuration = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Configuration(bytes)
    };

    /// Products of sixteen rows of 64 bytes with as many columns, into four tiles by turns.
    ///
    /// # Safety
    /// The machine has tiles of 8-bit integers, and this process may use them.
    unsafe fn tile_products() {
        // SAFETY: by the contract; tiles start as zeros, and no memory but the configuration is touched.
        unsafe {
            asm!(
                "ldtilecfg [{configuration}]",
                "2:",
                "tdpbssd tmm0, tmm4, tmm5",
                "tdpbssd tmm1, tmm4, tmm5",
                "tdpbssd tmm2, tmm4, tmm5",
                "tdpbssd tmm3, tmm4, tmm5",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                configuration = in(reg) &raw const CONFIGURATION,
                rounds = inout(reg) ROUNDS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
