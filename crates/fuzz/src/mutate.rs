//! Changing inputs.

/// Whole numbers and others at which things end.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "340282366920938463463374607431768211456",
    "1e308",
    "-0.0",
];

/// The same as bytes of binary formats.
const BINARY: [u64; 8] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Words of JSON.
const JSON: [&str; 12] = [
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "[[[[",
    "{\"a\":",
    ",",
    ":",
    "\"",
];

/// A generator that needs no crate and repeats itself: the same seed, the same numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that begins with a seed.
    pub fn new(seed: u64) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        // From nothing comes nothing.
        Self(mixed.max(1))
    }

    /// A number below `most`; 0 where there is none.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % most.max(1)
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> Option<&'a T> {
        of.get(self.below(of.len())).copied()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    /// Where a piece of at most `most` bytes begins and ends.
    fn piece(&mut self, input: &[u8], most: usize) -> std::ops::Range<usize> {
        let at = self.below(input.len());
        at..(at + self.below(most) + 1).min(input.len())
    }
}

/// Places of an input, by a test of the byte there and the one before it.
fn places(input: &[u8], is: impl Fn(u8, u8) -> bool) -> Vec<usize> {
    let before = |at: usize| at.checked_sub(1).map_or(0, |at| input[at]);
    (0..input.len()).filter(|at| is(before(*at), input[*at])).collect()
}

/// The strings of a JSON text with their quotes, more or less.
fn strings(input: &[u8]) -> Vec<std::ops::Range<usize>> {
    let quotes = places(input, |before, byte| byte == b'"' && before != b'\\');
    quotes.chunks_exact(2).map(|pair| pair[0]..pair[1] + 1).collect()
}

/// Changes an input at a few places.
pub(crate) fn change(
    random: &mut Random,
    input: &mut Vec<u8>,
    words: &[&str],
    others: &[Vec<u8>],
    longest: usize,
) {
    for _ in 0..=random.below(6) {
        once(random, input, words, others);
    }
    input.truncate(longest);
}

fn once(random: &mut Random, input: &mut Vec<u8>, words: &[&str], others: &[Vec<u8>]) {
    if input.is_empty() {
        input.extend_from_slice(&others[random.below(others.len())]);
        return;
    }
    let at = random.below(input.len());
    match random.below(13) {
        0 => input[at] = random.byte(),
        1 => input[at] ^= 1 << random.below(8),
        2 => input.truncate(at + 1),
        3 => {
            let (piece, byte) = (random.piece(input, 64), random.byte());
            input[piece].fill(byte);
        }
        4 => {
            let piece = random.piece(input, 64);
            let copy = input[piece].to_vec();
            input.splice(at..at, copy);
        }
        5 => drop(input.drain(random.piece(input, 64))),
        6 => {
            let word = if random.below(3) == 0 { random.one(&JSON) } else { random.one(words) };
            input.splice(at..at, word.unwrap_or(JSON[0]).bytes());
        }
        7 => {
            let digits = places(input, |before, byte| {
                byte.is_ascii_digit() && !before.is_ascii_alphanumeric()
            });
            if let Some(start) = digits.get(random.below(digits.len())).copied() {
                let long = input[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                let number = random.one(&NUMBERS).unwrap_or(NUMBERS[0]);
                input.splice(start..start + long, number.bytes());
            }
        }
        8 => {
            let other = &others[random.below(others.len())];
            if !other.is_empty() {
                let piece = random.piece(other, 256);
                let end = (at + random.below(piece.len() + 1)).min(input.len());
                input.splice(at..end, other[piece].iter().copied());
            }
        }
        9 => {
            // As deep as nobody writes it.
            let open: &[u8] = if random.below(2) == 0 { b"[" } else { b"{\"a\":" };
            let deep = open.repeat(random.below(300));
            input.splice(at..at, deep);
        }
        10 => {
            let all = strings(input);
            let pair = (all.get(random.below(all.len())), all.get(random.below(all.len())));
            if let (Some(from), Some(to)) = pair {
                let copy = input[from.clone()].to_vec();
                input.splice(to.clone(), copy);
            }
        }
        11 => {
            let all = strings(input);
            if let Some(to) = all.get(random.below(all.len())) {
                let word = random.one(words).unwrap_or("");
                input.splice(to.clone(), format!("\"{word}\"").into_bytes());
            }
        }
        _ => {
            let bytes = BINARY[random.below(BINARY.len())].to_le_bytes();
            let long = [1, 2, 4, 8][random.below(4)].min(input.len() - at);
            input[at..at + long].copy_from_slice(&bytes[..long]);
        }
    }
}
