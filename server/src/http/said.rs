//! What was asked and answered, for the log of those who asked for it.

use super::job::Job;
use super::record::Record;
use odmoe_text::Tokenizer;

/// Token ids of one request's prompts and answers.
pub(crate) struct Said {
    prompts: Vec<Vec<u32>>,
    answers: Vec<Vec<u32>>,
}

impl Said {
    pub(crate) fn new(job: &Job) -> Self {
        let answers = job.prompts.len() * job.sampling.n as usize;
        Self {
            prompts: job.prompts.clone(),
            answers: vec![Vec::new(); answers],
        }
    }

    pub(crate) fn push(&mut self, index: u32, token: u32) {
        if let Some(answer) = self.answers.get_mut(index as usize) {
            answer.push(token);
        }
    }

    /// A line with all of it, special tokens included.
    pub(crate) fn log(&self, record: &Record, tokenizer: &Tokenizer) {
        let text = |all: &[Vec<u32>]| -> Vec<String> {
            all.iter().map(|ids| tokenizer.decode(ids, false)).collect()
        };
        let (prompts, answers) = (text(&self.prompts), text(&self.answers));
        tracing::info!(request_id = record.id_text(), ?prompts, ?answers, "text");
    }
}
