//! The blocks of one sequence.

use super::BlockPool;
use odmoe_backend::KvPosition;
use std::sync::Arc;

/// A sequence's blocks in order of position: block i holds positions `i * block_tokens ..`.
///
/// A table that still owns blocks must be given back with [`BlockTable::release`] before it is dropped.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
    /// The same blocks as plans share them, made when first asked for after a change.
    shared: Option<Arc<[u32]>>,
}

impl BlockTable {
    /// Grows to at least `blocks` blocks, or returns false and changes nothing.
    pub fn grow_to(&mut self, blocks: usize, pool: &mut BlockPool) -> bool {
        let missing = blocks.saturating_sub(self.blocks.len());
        if missing == 0 {
            return true;
        }
        let grown = pool.allocate(missing, &mut self.blocks);
        if grown {
            self.shared = None;
        }
        grown
    }

    /// Gives all blocks back.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.shared = None;
        pool.release(self.blocks.drain(..));
    }

    /// The blocks.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// The blocks for a plan; copied once per change, not once per plan.
    pub fn share(&mut self) -> Arc<[u32]> {
        self.shared
            .get_or_insert_with(|| Arc::from(self.blocks.as_slice()))
            .clone()
    }
}

/// Where a position lies, given its sequence's blocks.
pub fn kv_position(blocks: &[u32], block_tokens: usize, position: usize) -> KvPosition {
    KvPosition {
        block: blocks[position / block_tokens],
        offset: (position % block_tokens) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grows_shares_and_gives_back() {
        let mut pool = BlockPool::new(3);
        let mut other = BlockTable::default();
        let mut table = BlockTable::default();
        assert!(table.grow_to(1, &mut pool) && other.grow_to(1, &mut pool));
        let before = table.share();
        assert!(!table.grow_to(3, &mut pool), "one is left");
        assert!(Arc::ptr_eq(&before, &table.share()), "nothing changed");
        assert!(table.grow_to(2, &mut pool));
        assert_eq!(*table.share(), [0, 2]);
        assert_eq!(
            kv_position(&table.share(), 4, 6),
            KvPosition {
                block: 2,
                offset: 2
            }
        );
        table.release(&mut pool);
        assert_eq!(pool.used(), 1);
        assert!(table.share().is_empty());
    }
}
