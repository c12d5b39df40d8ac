//! The tile unit: sixteen tokens times thirty-two rows of one superblock.

use super::planes::{Planes, SLICES};
use crate::blocks::SUPERBLOCK;
use crate::kernels::row_lanes::ROWS;

/// Tokens of one product of tiles.
pub const TOKENS: usize = 16;

/// Sixteen tokens of a superblock, row by row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Tokens(pub [[i8; SUPERBLOCK]; TOKENS]);

/// Sums of sixteen tokens with sixteen rows, for both planes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct PlaneSums {
    /// [token][row].
    pub low: [[i32; ROWS]; TOKENS],
    /// [token][row].
    pub high: [[i32; ROWS]; TOKENS],
}

impl PlaneSums {
    /// Zeros.
    pub const EMPTY: Self = Self {
        low: [[0; ROWS]; TOKENS],
        high: [[0; ROWS]; TOKENS],
    };
}

/// What multiplies tiles. A value of the type is the proof that the machine can.
pub trait Tiles: Copy {
    /// What [`Self::multiply`] needs from `configure` on, on this thread.
    type Configured;
    /// Makes this thread's tiles ready.
    fn configure(self) -> Self::Configured;
    /// to\[s\] = x times both planes of slice s.
    fn multiply(
        configured: &Self::Configured,
        x: &Tokens,
        planes: &[Planes; SLICES],
        to: &mut [PlaneSums; SLICES],
    );
}

/// AMX with 8-bit integers.
#[derive(Clone, Copy)]
pub struct Amx(());

/// Tiles of this thread are configured; dropped, they are released, so that the kernel need not save them.
pub struct Configured(());

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Palette 1: every tile of sixteen rows of 64 bytes.
static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Amx {
    /// The proof, where it is true: the processor says that it has the instructions, the system lets this process use
    /// them, and a product comes out as it should.
    pub fn detect() -> Option<Self> {
        static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        let available =
            *AVAILABLE.get_or_init(|| has_instructions() && is_permitted() && Self(()).is_right());
        available.then_some(Self(()))
    }

    /// One product of every kind of byte against plain code.
    fn is_right(self) -> bool {
        let mut x = Tokens([[0; SUPERBLOCK]; TOKENS]);
        let mut planes = [Planes::EMPTY; SLICES];
        let mut number = 1u32;
        let mut next = || {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 24) as u8
        };
        x.0.as_flattened_mut()
            .iter_mut()
            .for_each(|x| *x = next() as i8);
        for planes in &mut planes {
            for plane in [&mut planes.low, &mut planes.high] {
                let bytes = plane.as_flattened_mut().as_flattened_mut();
                bytes.iter_mut().for_each(|byte| *byte = next());
            }
        }
        let (mut own, mut plain) = ([PlaneSums::EMPTY; SLICES], [PlaneSums::EMPTY; SLICES]);
        Self::multiply(&self.configure(), &x, &planes, &mut own);
        Emulated::multiply(&(), &x, &planes, &mut plain);
        own.iter()
            .zip(&plain)
            .all(|(own, plain)| own.low == plain.low && own.high == plain.high)
    }
}

/// CPUID leaf 7: bits 24 (tiles) and 25 (their products of 8-bit integers) of EDX.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 24 & 3 == 3
}

/// Asks Linux for the state of tiles, which a process has only on request. Threads share the answer.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call takes two integers and touches no memory of ours; it clobbers what every call does.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

impl Tiles for Amx {
    type Configured = Configured;

    fn configure(self) -> Configured {
        // SAFETY: the machine has tiles; the operand is 64 bytes of a valid configuration, and without `nomem` or
        // `readonly` the compiler has to have them in memory.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack));
        }
        Configured(())
    }

    #[inline(always)]
    fn multiply(
        _configured: &Configured,
        x: &Tokens,
        planes: &[Planes; SLICES],
        to: &mut [PlaneSums; SLICES],
    ) {
        // Tiles 0 to 3 are the sums: low and high of the first slice, then of the second. Each of the four steps takes
        // 64 elements: sixteen rows of a plane, which hold four elements each, follow one another in memory.
        // SAFETY: the tiles are configured; 16 rows of x are 256 bytes apart and 64 are read of each, rows of planes
        // and sums are 64 bytes apart, and the offsets stay within the arrays.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{x} + {x_stride}*1]",
                "tileloadd tmm5, [{first} + {stride}*1]",
                "tdpbsud tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{first} + {stride}*1 + 4096]",
                "tdpbssd tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{second} + {stride}*1]",
                "tdpbsud tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{second} + {stride}*1 + 4096]",
                "tdpbssd tmm3, tmm4, tmm5",
                "add {x}, 64",
                "add {first}, 1024",
                "add {second}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{to} + {stride}*1], tmm0",
                "tilestored [{to} + {stride}*1 + 1024], tmm1",
                "tilestored [{to} + {stride}*1 + 2048], tmm2",
                "tilestored [{to} + {stride}*1 + 3072], tmm3",
                x = inout(reg) x.0.as_ptr() => _,
                first = inout(reg) &raw const planes[0] => _,
                second = inout(reg) &raw const planes[1] => _,
                steps = inout(reg) SUPERBLOCK / 64 => _,
                to = in(reg) to.as_mut_ptr(),
                x_stride = in(reg) SUPERBLOCK,
                stride = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// The offsets in the assembly above.
const _: () = {
    assert!(std::mem::offset_of!(Planes, high) == 4096);
    assert!(std::mem::offset_of!(PlaneSums, high) == 1024);
    assert!(size_of::<PlaneSums>() == 2048 && SLICES == 2);
};

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the machine has tiles.
        unsafe { std::arch::asm!("tilerelease", options(nostack)) }
    }
}

/// The same in plain code: what the instructions are checked against, and tests where there are none.
#[derive(Clone, Copy)]
pub struct Emulated;

impl Tiles for Emulated {
    type Configured = ();

    fn configure(self) {}

    fn multiply(_: &(), x: &Tokens, planes: &[Planes; SLICES], to: &mut [PlaneSums; SLICES]) {
        for (planes, to) in planes.iter().zip(to) {
            for token in 0..TOKENS {
                for row in 0..ROWS {
                    let (mut low, mut high) = (0, 0);
                    for (i, &x) in x.0[token].iter().enumerate() {
                        let (word, byte) = (i / 4, i % 4);
                        low += i32::from(x) * i32::from(planes.low[word][row][byte]);
                        high += i32::from(x) * i32::from(planes.high[word][row][byte] as i8);
                    }
                    (to.low[token][row], to.high[token][row]) = (low, high);
                }
            }
        }
    }
}
