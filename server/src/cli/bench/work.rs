//! What one measurement is of.

use std::fmt;
use std::str::FromStr;

/// Requests of one shape, all submitted at once. Written as `8x16+24`: eight streams, 16 prompt tokens, 24 new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Requests at once.
    pub streams: u32,
    /// Prompt tokens of each.
    pub prompt_tokens: u32,
    /// New tokens of each.
    pub generate_tokens: u32,
}

impl Work {
    /// Most streams, and most tokens of a prompt or an answer.
    const MOST: [u32; 3] = [1 << 10, 1 << 20, 1 << 20];

    /// Positions that a stream takes in the context.
    pub fn context_tokens(self) -> usize {
        self.prompt_tokens as usize + self.generate_tokens as usize
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            streams,
            prompt_tokens,
            generate_tokens,
        } = self;
        write!(f, "{streams}x{prompt_tokens}+{generate_tokens}")
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('x')
            .and_then(|(streams, rest)| Some((streams, rest.split_once('+')?)));
        let Some((streams, (prompt, new))) = parts else {
            return Err("not of the form STREAMSxPROMPT+NEW, such as 8x16+24".to_owned());
        };
        let number = |text: &str, most: u32| {
            let number = text.parse().ok().filter(|n| (1..=most).contains(n));
            number.ok_or_else(|| format!("{text:?} is no number from 1 to {most}"))
        };
        Ok(Self {
            streams: number(streams, Self::MOST[0])?,
            prompt_tokens: number(prompt, Self::MOST[1])?,
            generate_tokens: number(new, Self::MOST[2])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_written() {
        let work: Work = "8x16+24".parse().unwrap();
        let wanted = Work {
            streams: 8,
            prompt_tokens: 16,
            generate_tokens: 24,
        };
        assert_eq!((work, work.to_string().as_str()), (wanted, "8x16+24"));
        assert_eq!(work.context_tokens(), 40);
        for wrong in [
            "", "8", "8x16", "16+24", "0x16+24", "8x16+0", "2000x1+1", "8x-1+1",
        ] {
            assert!(wrong.parse::<Work>().is_err(), "{wrong}");
        }
    }
}
