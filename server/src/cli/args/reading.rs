//! How experts are read from the disk.

use super::positive;
use crate::config::ByteSize;
use crate::model::read_plan::ReadSettings;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use odmoe_expert_store::disk::Wanted;
use odmoe_expert_store::{Access, Method};

/// How experts are read from the disk. What is not given is measured at a store's first start, in about a second, and
/// remembered.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Model and memory")]
pub struct ReadArgs {
    /// Experts that are read at once. [default: as measured]
    #[arg(long, env = "ODMOE_READERS", value_name = "N", value_parser = positive(64))]
    pub readers: Option<u32>,

    /// Which system calls read experts. A system without io_uring reads by threads in any case. [default: as measured]
    #[arg(long, env = "ODMOE_READ_METHOD", value_enum, value_name = "METHOD")]
    pub read_method: Option<MethodName>,

    /// Whether experts are read past the system's page cache or through it. [default: as measured]
    #[arg(long, env = "ODMOE_READ_ACCESS", value_enum, value_name = "ACCESS")]
    pub read_access: Option<AccessName>,

    /// Pieces that io_uring reads an expert in: a size, or whole. [default: as measured]
    #[arg(long, env = "ODMOE_READ_PIECE", value_name = "SIZE|whole", value_parser = parse_piece)]
    pub read_piece: Option<Piece>,

    /// Measure anew how the disk is best read, whatever is remembered.
    #[arg(long, env = "ODMOE_MEASURE_DISK", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub measure_disk: bool,
}

/// [`Method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// One thread has all pieces of an expert under way.
    #[value(name = "io_uring")]
    IoUring,
    /// A thread waits for each expert.
    Threads,
}

/// [`Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessName {
    /// Past the page cache, where the file system can.
    Direct,
    /// Through it.
    Buffered,
}

/// None: whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece(pub Option<ByteSize>);

fn parse_piece(text: &str) -> Result<Piece, String> {
    if text == "whole" {
        return Ok(Piece(None));
    }
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("{text:?} is neither a size, such as 512KiB, nor whole"))?;
    match size.0 {
        0 => Err("nothing can be read in pieces of no bytes".to_owned()),
        _ => Ok(Piece(Some(size))),
    }
}

impl ReadArgs {
    /// What they say.
    pub fn settings(&self) -> ReadSettings {
        let wanted = Wanted {
            method: self.read_method.map(|method| match method {
                MethodName::IoUring => Method::IoUring,
                MethodName::Threads => Method::Threads,
            }),
            access: self.read_access.map(|access| match access {
                AccessName::Direct => Access::Direct,
                AccessName::Buffered => Access::Buffered,
            }),
            at_once: self.readers.map(|readers| readers as usize),
            piece: self.read_piece.map(|Piece(size)| size.map(ByteSize::count)),
        };
        ReadSettings {
            wanted,
            anew: self.measure_disk,
        }
    }
}
