//! Writes the seeds of the fuzz targets to `fuzz/corpus/`. Inputs that fuzzing found stay.

use odmoe_tests::fuzzing::{TARGETS, corpus};
use std::fs;

fn main() -> std::io::Result<()> {
    for target in TARGETS {
        let folder = corpus::folder(target.name);
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let found = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("found-"));
            if !found {
                fs::remove_file(path)?;
            }
        }
        let seeds = corpus::seeds(target.name);
        for (name, bytes) in &seeds {
            fs::write(folder.join(name), bytes)?;
        }
        println!("{}: {} seeds", target.name, seeds.len());
    }
    Ok(())
}
