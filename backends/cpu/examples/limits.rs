//! What the machine's memory and arithmetic give at most, as JSON: what kernels are measured against.
//!
//! `cargo run --release -p odmoe-backend-cpu --example limits -- [--threads N] [--mebibytes N]`
//!
//! Memory: all threads read parts of one buffer, far beyond the caches, and add it up. Arithmetic: each thread runs
//! independent chains of one instruction on registers. Each figure is the best of several runs; an instruction that the
//! machine lacks has null. Operations count a multiply-add as two.

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
    let buffer = filled(option("--mebibytes", 2048) << 20, threads);
    let show = |rate: Option<f64>| rate.map_or("null".to_owned(), |rate| format!("{rate:.0}"));
    let peak = |chain: Option<Chain>| show(chain.map(|chain| best_ops(chain, threads)));
    println!(
        "{{\"threads\":{threads},\"read_bytes_per_s\":{},\"vnni_int8_ops_per_s\":{},\"f32_ops_per_s\":{}}}",
        show(Some(best_read(&buffer, threads))),
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
fn best_read(buffer: &[u64], threads: usize) -> f64 {
    let part = buffer.len().div_ceil(threads).max(1);
    let bytes = size_of_val(buffer) as f64;
    let run = || {
        let start = Instant::now();
        thread::scope(|scope| {
            for words in buffer.chunks(part) {
                scope.spawn(move || black_box(sum(words)));
            }
        });
        bytes / start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| run()).fold(0.0, f64::max)
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
