//! The blocks of one sequence.

use super::BlockPool;
use super::prefixes::{Parent, PrefixScope};
use odmoe_backend::KvPosition;
use std::sync::Arc;

/// A sequence's blocks in order of position: block i holds positions `i * block_tokens ..`.
///
/// A table that still owns blocks must be given back with [`BlockTable::release`] before it is dropped.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
    /// The first of them that the pool remembers: nobody writes into these any more.
    remembered: usize,
    /// The same blocks as plans share them, made when first asked for after a change.
    shared: Option<Arc<[u32]>>,
}

impl BlockTable {
    /// Begins with blocks that others have filled, a prefix that the pool has just found. Only while it is empty.
    pub fn begin_with(&mut self, prefix: Vec<u32>, pool: &mut BlockPool) {
        assert!(self.blocks.is_empty(), "a table with blocks begins again");
        for &block in &prefix {
            pool.share(block);
        }
        self.remembered = prefix.len();
        self.blocks = prefix;
        self.shared = None;
    }

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

    /// Has the pool remember every block that `computed`, the tokens whose keys and values are there, fills. Blocks
    /// may be exchanged for others of the same bits, so no lane may be using the table.
    pub fn remember(
        &mut self,
        scope: PrefixScope,
        computed: &[u32],
        block_tokens: usize,
        pool: &mut BlockPool,
    ) {
        let full = computed.chunks_exact(block_tokens).enumerate();
        for (index, tokens) in full.skip(self.remembered) {
            let parent = match index.checked_sub(1) {
                Some(before) => Parent::Block(self.blocks[before]),
                None => Parent::Start(scope),
            };
            let block = pool.remember(parent, tokens, self.blocks[index]);
            if block != self.blocks[index] {
                self.blocks[index] = block;
                self.shared = None;
            }
            self.remembered = index + 1;
        }
    }

    /// Gives all blocks back.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.shared = None;
        self.remembered = 0;
        pool.release(self.blocks.drain(..));
    }

    /// The blocks.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// How many of the first blocks the pool remembers.
    pub fn remembered(&self) -> usize {
        self.remembered
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

    #[test]
    fn two_that_computed_the_same_end_up_with_the_same_blocks() {
        let scope = PrefixScope(3);
        let text = [1, 2, 3, 4, 5];
        let mut pool = BlockPool::new(8);
        let mut tables = [BlockTable::default(), BlockTable::default()];
        for table in &mut tables {
            assert!(table.grow_to(3, &mut pool));
        }
        let [first, second] = &mut tables;
        first.remember(scope, &text, 2, &mut pool);
        assert_eq!(
            (first.remembered(), second.share().to_vec()),
            (2, vec![3, 4, 5])
        );
        second.remember(scope, &text, 2, &mut pool);
        assert_eq!(*second.share(), [0, 1, 5], "the last block is not full");
        assert_eq!(pool.used(), 4);
        first.release(&mut pool);
        let mut third = BlockTable::default();
        let prefix = pool.longest_prefix(scope, &text, 2).collect();
        third.begin_with(prefix, &mut pool);
        second.release(&mut pool);
        assert_eq!((third.blocks(), pool.used()), ([0, 1].as_slice(), 2));
        pool.check_owners(std::iter::once(third.blocks()));
    }
}
