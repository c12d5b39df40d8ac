//! What the machine's memory and arithmetic give at most, as JSON: what kernels are measured against.
//!
//! `cargo run --release -p odmoe-backend-cpu --example limits -- [--threads N] [--mebibytes N] [--memory-alone]
//! [--runs N]`
//!
//! Memory: all threads read parts of one buffer, far beyond the caches, and add it up. Arithmetic: each thread runs
//! independent chains of one instruction on registers. Each figure is the best of several runs, of memory also their
//! mean; an instruction that the machine lacks has null. Operations count a multiply-add as two.

#[cfg(target_arch = "x86_64")]
use odmoe_backend_cpu::KernelSet;
use std::hint::black_box;
use std::thread;
use std::time::Instant;

const RUNS: usize = 5;
/// Instructions of each chain in one run: some tens of milliseconds.
const STEPS: usize = 1 << 24;

/// Operations of `steps` steps, with what they came to, so that nothing is left out.
type Chain = fn(steps: usize) -> (usize, u64);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| {
            let value = arguments.get(at + 1).and_then(|text| text.parse().ok());
            value.unwrap_or_else(|| panic!("{name} needs a number"))
        })
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = option("--threads", cores).max(1);
    let memory_alone = arguments
        .iter()
        .any(|argument| argument == "--memory-alone");
    let buffer = filled(option("--mebibytes", 2048) << 20, threads);
    let reads: Vec<f64> = (0..option("--runs", RUNS).max(1))
        .map(|_| read(&buffer, threads))
        .collect();
    // Of bytes over time, as a program that reads for as long would have it.
    let mean = reads.len() as f64 / reads.iter().map(|rate| 1.0 / rate).sum::<f64>();
    let show = |rate: Option<f64>| rate.map_or("null".to_owned(), |rate| format!("{rate:.0}"));
    let peak = |chain: Option<Chain>| {
        let chain = chain.filter(|_| !memory_alone);
        show(chain.map(|chain| best_ops(chain, threads)))
    };
    println!(
        "{{\"threads\":{threads},\"read_bytes_per_s\":{},\"mean_read_bytes_per_s\":{},\"amx_int8_ops_per_s\":{},\"vnni_int8_ops_per_s\":{},\"f32_ops_per_s\":{}}}",
        show(reads.iter().copied().reduce(f64::max)),
        show(Some(mean)),
        peak(amx()),
        peak(vnni()),
        peak(f32_chain()),
    );
}

/// Pages of its own for every part: a page that nobody wrote to would be the system's one page of zeros.
fn filled(bytes: usize, threads: usize) -> Vec<u64> {
    let mut buffer = vec![0_u64; bytes / 8];
    let part = buffer.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        for words in buffer.chunks_mut(part) {
            scope.spawn(|| words.fill(black_box(1)));
        }
    });
    buffer
}

/// Bytes per second.
fn read(buffer: &[u64], threads: usize) -> f64 {
    let part = buffer.len().div_ceil(threads).max(1);
    let start = Instant::now();
    thread::scope(|scope| {
        for words in buffer.chunks(part) {
            scope.spawn(move || black_box(sum(words)));
        }
    });
    size_of_val(buffer) as f64 / start.elapsed().as_secs_f64()
}

/// Operations per second.
fn best_ops(chain: Chain, threads: usize) -> f64 {
    let run = || {
        let start = Instant::now();
        let operations: usize = thread::scope(|scope| {
            let started: Vec<_> = (0..threads)
                .map(|_| scope.spawn(move || black_box(chain(STEPS)).0))
                .collect();
            let ended = started.into_iter().map(|thread| thread.join());
            ended.map(|count| count.expect("a chain ends")).sum()
        });
        operations as f64 / start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| run()).fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Chains that run at once: more than an instruction's latency times how many start in a cycle.
    const CHAINS: usize = 16;

    /// Adds with 512-bit loads, 512 bytes at a time.
    #[target_feature(enable = "avx512f")]
    pub fn sum(words: &[u64]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 8];
        let (groups, rest) = words.as_chunks::<64>();
        for group in groups {
            for (sum, part) in sums.iter_mut().zip(group.as_chunks::<8>().0) {
                // SAFETY: the load takes the 64 bytes of `part`.
                let part = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
                *sum = _mm512_add_epi64(*sum, part);
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_add_epi64(a, b));
        rest.iter().sum::<u64>() + _mm512_reduce_add_epi64(all.expect("eight sums")) as u64
    }

    /// 64 products of bytes, added in fours, in each lane of 32 bits.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni(steps: usize) -> (usize, u64) {
        let (a, b) = (
            _mm512_set1_epi8(black_box(1)),
            _mm512_set1_epi8(black_box(1)),
        );
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..steps / CHAINS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
            // The compiler may not foresee the sums.
            sums = keep(sums);
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_add_epi32(a, b));
        let all = _mm512_reduce_add_epi32(all.expect("some chains"));
        (steps / CHAINS * CHAINS * 64 * 2, all as u64)
    }

    /// 16 fused multiply-adds of binary32.
    #[target_feature(enable = "avx512f")]
    pub fn f32_chain(steps: usize) -> (usize, u64) {
        let (a, b) = (
            _mm512_set1_ps(black_box(0.5)),
            _mm512_set1_ps(black_box(1.0)),
        );
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..steps / CHAINS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
        let all = _mm512_reduce_add_ps(all.expect("some chains"));
        (steps / CHAINS * CHAINS * 16 * 2, all as u64)
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
    pub unsafe fn amx(steps: usize) -> (usize, u64) {
        let rounds = steps / 4;
        // SAFETY: by the contract; tiles start as zeros, and no memory but the configuration is touched.
        unsafe {
            std::arch::asm!(
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
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        (rounds * 4 * 16 * 16 * 64 * 2, 0)
    }

    /// Leaves registers in registers, and the compiler in the dark about their values.
    #[target_feature(enable = "avx512f")]
    fn keep(mut sums: [__m512i; CHAINS]) -> [__m512i; CHAINS] {
        for sum in &mut sums {
            // SAFETY: no instruction, and no memory.
            unsafe {
                std::arch::asm!(
                    "/* {0} */",
                    inout(zmm_reg) * sum,
                    options(nomem, nostack, preserves_flags)
                )
            };
        }
        sums
    }
}

fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: just detected.
        return unsafe { x86::sum(words) };
    }
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

fn amx() -> Option<Chain> {
    #[cfg(target_arch = "x86_64")]
    if KernelSet::Amx.is_available() {
        // SAFETY: the machine has tiles, and the system lets this process use them.
        return Some(|steps| unsafe { x86::amx(steps) });
    }
    None
}

fn vnni() -> Option<Chain> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: just detected.
        return Some(|steps| unsafe { x86::vnni(steps) });
    }
    None
}

fn f32_chain() -> Option<Chain> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: just detected.
        return Some(|steps| unsafe { x86::f32_chain(steps) });
    }
    None
}
