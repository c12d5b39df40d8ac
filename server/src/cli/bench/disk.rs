//! What the disk gives this process: experts read at random by the threads that serve, with nothing else to do.

use super::figures::Figure;
use super::machine;
use crate::cli::{Failure, terminal};
use crate::model::open::PreparedModel;
use crate::model::read_plan::{Reading, measuring_memory};
use odmoe_expert_store::disk::{DiskBench, Verify};
use odmoe_expert_store::{Catalog, FileReader};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Of each round, with verification and then without.
const ROUND: Duration = Duration::from_millis(1000);

/// Rounds of random reads.
pub struct DiskRounds {
    bench: DiskBench,
    reading: Reading,
    object_bytes: f64,
    verified: Figure,
    unverified: Figure,
}

impl DiskRounds {
    /// For the experts of a model, read as they are when it is served.
    pub fn new(
        prepared: &PreparedModel,
        reader: &FileReader,
        reading: Reading,
    ) -> Result<Self, Failure> {
        let catalog = Arc::new(Catalog::new(&prepared.manifest));
        let object_bytes = catalog.total().0 as f64 / catalog.len().max(1) as f64;
        let patience = prepared.settings.read_timeout;
        let memory = measuring_memory(prepared.budget.bytes);
        let bench = DiskBench::new(catalog, reader, memory, patience);
        Ok(Self {
            bench: bench.map_err(Failure::failed)?,
            reading,
            object_bytes,
            verified: Figure::default(),
            unverified: Figure::default(),
        })
    }

    /// One round.
    pub fn round(&mut self) -> Result<(), Failure> {
        for (verify, figure) in [
            (Verify::Yes, &mut self.verified),
            (Verify::No, &mut self.unverified),
        ] {
            let speed = self.bench.run(self.reading.plan, verify, ROUND);
            let speed = speed.map_err(Failure::failed)?;
            figure.add(Some(speed.bytes_per_s()));
        }
        Ok(())
    }

    /// Forgets the rounds so far.
    pub fn clear(&mut self) {
        (self.verified, self.unverified) = Default::default();
    }

    /// The fields of a result.
    pub fn json(&self) -> Map<String, Value> {
        let plan = self.reading.plan;
        let fields = json!({
            "disk_bytes_per_s": self.verified.json(),
            "disk_bytes_per_s_unverified": self.unverified.json(),
            "object_bytes": self.object_bytes,
            "read_method": plan.method.name(),
            "read_access": plan.access.name(),
            "reads_at_once": plan.at_once,
            "read_piece_bytes": plan.piece.map(|piece| piece.0),
            "read_plan": self.reading.origin.name(),
        });
        match fields {
            Value::Object(fields) => fields,
            _ => unreachable!("an object, as written above"),
        }
    }

    /// For people.
    pub fn human(&self) -> String {
        format!(
            "  disk      {}\n            {}\n            {} ({})\n",
            self.verified.human("bytes/s of verified experts"),
            self.unverified.human("bytes/s without verification"),
            self.reading.plan,
            self.reading.origin.name(),
        )
    }
}

/// `odmoe bench --disk` alone.
pub fn run(prepared: &PreparedModel, repeats: u32, as_json: bool) -> Result<(), Failure> {
    let (reader, reading) = prepared.reader(&|_| ()).map_err(Failure::failed)?;
    let mut rounds = DiskRounds::new(prepared, &reader, reading)?;
    for _ in 0..repeats {
        rounds.round()?;
    }
    let machine = machine::describe(Path::new("/"));
    if !as_json {
        let title = format!("{} on {machine}\n", prepared.name());
        return terminal::print(&(title + &rounds.human()));
    }
    let mut fields = rounds.json();
    fields.extend([
        ("threads".to_owned(), json!(prepared.settings.threads)),
        ("model".to_owned(), json!(prepared.name())),
        ("commit".to_owned(), json!(machine::commit())),
        ("machine".to_owned(), json!(machine)),
    ]);
    terminal::print(&format!("{}\n", Value::Object(fields)))
}
