//! Seeded mutations of inputs: bits, bytes, numbers at their limits, pieces moved, cut, repeated or taken from elsewhere.

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A range of at least one and at most `longest` of `length` bytes, which are not none.
    fn piece(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        start..(start + 1 + self.below(longest)).min(length)
    }
}

/// Mutated inputs do not grow beyond this.
const MAX_BYTES: usize = 64 << 10;

/// Bytes that mean something in JSON, and some that never do.
const SYNTAX: &[u8] = b"0123456789-[]{}\",:eE.\\/\0\xff ";

/// Numbers where something ends: of integers, of limits in our parsers, of alignments.
const LIMITS: [u64; 20] = [
    0,
    1,
    2,
    3,
    31,
    33,
    0x7f,
    0xff,
    0x100,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Decimal numbers that parsers disagree about.
const ODD_NUMBERS: [&str; 7] = [
    "1e3",
    "1e400",
    "-1",
    "-0",
    "0.5",
    "01",
    "18446744073709551616",
];

/// At least one change to `bytes`, and with a chance of a half each another, up to eight. `other` is another input of the same corpus.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..8 {
        change(bytes, other, random);
        bytes.truncate(MAX_BYTES);
        if random.below(2) == 0 {
            break;
        }
    }
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.extend_from_slice(other);
        return;
    }
    let at = random.below(bytes.len());
    match random.below(12) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at] = SYNTAX[random.below(SYNTAX.len())],
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(random.piece(bytes.len(), 64))),
        5 => {
            let piece = bytes[random.piece(bytes.len(), 64)].to_vec();
            bytes.splice(at..at, piece);
        }
        6 if !other.is_empty() => {
            let piece = &other[random.piece(other.len(), 256)];
            bytes.splice(at..at, piece.iter().copied());
        }
        7 => binary_number(bytes, at, random),
        8..=10 => decimal_number(bytes, at, random),
        _ => {
            let to = random.below(bytes.len());
            bytes.swap(at, to);
        }
    }
}

/// Overwrites up to eight bytes by a number at a limit, or by a small step from what is there.
fn binary_number(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
    let field = &mut bytes[at..at + width];
    let mut found = [0; 8];
    found[..width].copy_from_slice(field);
    let step = random.below(9) as u64;
    let number = match random.below(3) {
        0 => u64::from_le_bytes(found).wrapping_add(step).wrapping_sub(4),
        _ => LIMITS[random.below(LIMITS.len())]
            .wrapping_add(step / 4)
            .wrapping_sub(1),
    };
    field.copy_from_slice(&number.to_le_bytes()[..width]);
}

/// Replaces the first run of digits from `at` on by another number.
fn decimal_number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let digits = bytes[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let found = std::str::from_utf8(&bytes[start..start + digits]).expect("digits");
    let found = found.parse::<u64>().unwrap_or(u64::MAX);
    let step = random.below(9) as u64;
    let number = match random.below(4) {
        0 => found.wrapping_add(step).wrapping_sub(4).to_string(),
        1 => found.wrapping_mul(1 << random.below(16)).to_string(),
        2 => ODD_NUMBERS[random.below(ODD_NUMBERS.len())].to_string(),
        _ => LIMITS[random.below(LIMITS.len())].to_string(),
    };
    bytes.splice(start..start + digits, number.into_bytes());
}
