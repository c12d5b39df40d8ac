//! How fast a conversion is beside a plain copy of the same files: both in turn, each with a cold page cache as far as
//! the system lets go of it, each until its bytes are on disk.
//!
//! `cargo run --release -p odmoe-convert --example conversion_speed -- FOLDER GIGABYTES [ROUNDS]`
//!
//! FOLDER is made, needs room for twice the model, and is removed at the end. Prints one line of JSON for each run,
//! and the medians. The peak is of the memory that this process had resident at any time so far.

use odmoe_convert::random_model::RandomModel;
use odmoe_convert::{ConvertOptions, NoProgress, WeightFormat, convert, open_source};
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// With experts of 9.4 MB in bf16, as Qwen3-30B-A3B has them: 128 a layer, 1.2 GB.
fn model(gigabytes: u32) -> RandomModel {
    RandomModel {
        layers: (gigabytes * 5).div_ceil(6).max(1),
        hidden: 2048,
        heads: 32,
        kv_heads: 4,
        head_dim: 128,
        experts: 128,
        top_k: 8,
        expert_ffn: 768,
        vocab: 50_000,
        shards: gigabytes.div_ceil(4) as usize,
        ..RandomModel::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, gigabytes, rounds) = match &arguments[..] {
        [folder, gigabytes] => (PathBuf::from(folder), gigabytes.parse()?, 3),
        [folder, gigabytes, rounds] => (PathBuf::from(folder), gigabytes.parse()?, rounds.parse()?),
        _ => return Err("usage: conversion_speed FOLDER GIGABYTES [ROUNDS]".into()),
    };
    fs::create_dir_all(&folder)?;
    let measured = measure(&folder, gigabytes, rounds);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &Path, gigabytes: u32, rounds: usize) -> Result<(), Box<dyn Error>> {
    let source = folder.join("source");
    model(gigabytes).write(&source)?;
    let bytes = folder_bytes(&source)?;
    let kinds = [
        ("copy", None),
        ("convert", Some(WeightFormat::Source)),
        ("convert to Q8_0", Some(WeightFormat::Q8_0)),
    ];
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for (place, (name, weights)) in kinds.iter().enumerate() {
            let target = folder.join("target");
            forget(&source)?;
            let start = Instant::now();
            match weights {
                None => copy(&source, &target)?,
                Some(weights) => {
                    let options = ConvertOptions {
                        weights: *weights,
                        ..ConvertOptions::default()
                    };
                    convert(&*open_source(&source)?, &target, &options, &NoProgress)?;
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            let rate = bytes as f64 / 1e6 / seconds;
            rates[place].push(rate);
            println!(
                "{{\"run\":\"{name}\",\"round\":{round},\"source_bytes\":{bytes},\"seconds\":{seconds:.2},\
                 \"mb_per_s\":{rate:.0},\"peak_rss_mib\":{}}}",
                peak_mebibytes()
            );
            fs::remove_dir_all(target)?;
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let [copied, kept, quantised] = rates.each_mut().map(median);
    println!(
        "medians: copy {copied:.0} MB/s; convert {kept:.0} MB/s, {:.2} of it; to Q8_0 {quantised:.0} MB/s, {:.2} of it",
        kept / copied,
        quantised / copied
    );
    Ok(())
}

/// `cp` of the folder, then a sync of each file, as a conversion ends with one.
fn copy(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status()?;
    if !status.success() {
        return Err("cp failed".into());
    }
    for entry in fs::read_dir(to)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(())
}

/// Asks the system to drop the pages of a folder's files.
fn forget(folder: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let file = File::open(entry?.path())?;
        file.sync_all()?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn folder_bytes(folder: &Path) -> Result<u64, Box<dyn Error>> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// Linux only; 0 elsewhere.
fn peak_mebibytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) >> 10
}
