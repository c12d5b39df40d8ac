//! Which prefix of a text each remembered KV block ends.
//!
//! A tree: a block is a child of the block before it, under the tokens that it holds. Tokens are compared, not hashes
//! of them, so a block is never taken for another. A tree belongs to one KV cache, and so to one model and one format.

use std::collections::BTreeMap;

/// Among whom prefixes are shared: those of one scope are never found from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixScope(pub u32);

/// What comes before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: it is the first.
    Start(PrefixScope),
    /// This block, which is in the tree.
    Block(u32),
}

/// Blocks in the order of their tokens. Nearly all have one child or none, so a list is the smallest form.
type Children = Vec<u32>;

/// Some 200 bytes with all that belongs to it.
#[derive(Clone, Debug)]
struct Node {
    parent: Parent,
    tokens: Box<[u32]>,
    children: Children,
    /// When its last holder let go of it, if nobody holds it.
    idle_since: Option<u64>,
}

/// See the module. Blocks that somebody holds stay; the others are given up in the order in which they were let go.
///
/// Whoever holds a block must hold all before it too, and let go of the last first: then no block is given up before
/// those that follow it.
#[derive(Clone, Debug)]
pub struct PrefixTree {
    starts: BTreeMap<PrefixScope, Children>,
    /// By block.
    nodes: Vec<Option<Node>>,
    /// Blocks that nobody holds, by when they were let go.
    idle: BTreeMap<u64, u32>,
    next_moment: u64,
}

impl PrefixTree {
    /// An empty one for blocks `0 .. blocks`.
    pub fn new(blocks: usize) -> Self {
        Self {
            starts: BTreeMap::new(),
            nodes: vec![None; blocks],
            idle: BTreeMap::new(),
            next_moment: 0,
        }
    }

    /// The block that holds `tokens` after `parent`.
    pub fn child(&self, parent: Parent, tokens: &[u32]) -> Option<u32> {
        let children = self.children(parent)?;
        let place = self.place(children, tokens).ok()?;
        Some(children[place])
    }

    /// The longest known prefix of `tokens`, in whole blocks.
    pub fn longest(
        &self,
        scope: PrefixScope,
        tokens: &[u32],
        block_tokens: usize,
    ) -> impl Iterator<Item = u32> {
        let mut parent = Parent::Start(scope);
        tokens.chunks_exact(block_tokens).map_while(move |tokens| {
            let block = self.child(parent, tokens)?;
            parent = Parent::Block(block);
            Some(block)
        })
    }

    /// Takes in a block that somebody holds. One that is here already, under any tokens, is a bug.
    pub fn insert(&mut self, parent: Parent, tokens: &[u32], block: u32) {
        let siblings = self.children(parent).map_or(&[][..], Vec::as_slice);
        let place = self.place(siblings, tokens);
        let place = place.expect_err("two KV blocks end the same prefix");
        match parent {
            Parent::Start(scope) => self.starts.entry(scope).or_default(),
            Parent::Block(parent) => &mut self.node(parent).children,
        }
        .insert(place, block);
        let node = Node {
            parent,
            tokens: tokens.into(),
            children: Children::new(),
            idle_since: None,
        };
        let before = self.nodes[block as usize].replace(node);
        assert!(before.is_none(), "KV block {block} ends two prefixes");
    }

    /// Whether a block is remembered.
    pub fn contains(&self, block: u32) -> bool {
        self.nodes[block as usize].is_some()
    }

    /// The last holder lets go of a block.
    pub fn let_go(&mut self, block: u32) {
        let moment = self.next_moment;
        self.next_moment += 1;
        let before = self.node(block).idle_since.replace(moment);
        assert!(before.is_none(), "KV block {block} was let go twice");
        self.idle.insert(moment, block);
    }

    /// Somebody holds a block again.
    pub fn take_up(&mut self, block: u32) {
        let moment = self.node(block).idle_since.take();
        let moment = moment.expect("only an idle block is taken up");
        self.idle.remove(&moment);
    }

    /// Blocks that nobody holds.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Forgets the block that was let go longest ago.
    pub fn forget_oldest(&mut self) -> Option<u32> {
        let (_, block) = self.idle.pop_first()?;
        let node = self.nodes[block as usize].take().expect("idle, so known");
        assert!(
            node.children.is_empty(),
            "KV block {block} is given up before what follows it"
        );
        match node.parent {
            Parent::Start(scope) => {
                let children = self.starts.get_mut(&scope).expect("it has this child");
                children.retain(|child| *child != block);
                if children.is_empty() {
                    self.starts.remove(&scope);
                }
            }
            Parent::Block(parent) => {
                self.node(parent).children.retain(|child| *child != block);
            }
        }
        Some(block)
    }

    /// Forgets all; returns the blocks that nobody holds, those that were let go longest ago first.
    pub fn forget_all(&mut self) -> Vec<u32> {
        self.starts.clear();
        self.nodes.fill_with(|| None);
        std::mem::take(&mut self.idle).into_values().collect()
    }

    /// Where a child of these tokens is, or else belongs.
    fn place(&self, children: &[u32], tokens: &[u32]) -> Result<usize, usize> {
        children.binary_search_by(|child| {
            let node = self.nodes[*child as usize].as_ref();
            let node = node.expect("children are remembered");
            (*node.tokens).cmp(tokens)
        })
    }

    fn children(&self, parent: Parent) -> Option<&Children> {
        match parent {
            Parent::Start(scope) => self.starts.get(&scope),
            Parent::Block(block) => self.nodes[block as usize].as_ref().map(|n| &n.children),
        }
    }

    fn node(&mut self, block: u32) -> &mut Node {
        let node = self.nodes[block as usize].as_mut();
        node.expect("a KV block that is remembered")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PrefixScope = PrefixScope(1);

    fn longest(tree: &PrefixTree, scope: PrefixScope, tokens: &[u32]) -> Vec<u32> {
        tree.longest(scope, tokens, 2).collect()
    }

    /// Blocks 3, 1 for [5 6 | 7 8], and 2 for the other end [5 6 | 7 9].
    fn forked() -> PrefixTree {
        let mut tree = PrefixTree::new(4);
        tree.insert(Parent::Start(ME), &[5, 6], 3);
        tree.insert(Parent::Block(3), &[7, 8], 1);
        tree.insert(Parent::Block(3), &[7, 9], 2);
        tree
    }

    #[test]
    fn a_prefix_is_found_by_all_its_tokens_and_by_its_scope_alone() {
        let tree = forked();
        assert_eq!(longest(&tree, ME, &[5, 6, 7, 8, 1, 1]), [3, 1]);
        assert_eq!(longest(&tree, ME, &[5, 6, 7, 9]), [3, 2]);
        assert_eq!(longest(&tree, ME, &[5, 6, 7]), [3], "whole blocks only");
        assert!(
            longest(&tree, ME, &[7, 8]).is_empty(),
            "not from the middle"
        );
        assert!(longest(&tree, PrefixScope(2), &[5, 6]).is_empty());
    }

    #[test]
    fn what_was_let_go_first_is_forgotten_first_and_can_be_taken_up_before() {
        let mut tree = forked();
        for block in [1, 2, 3] {
            tree.let_go(block);
        }
        tree.take_up(3);
        tree.take_up(1);
        assert_eq!((tree.idle(), tree.forget_oldest()), (1, Some(2)));
        assert_eq!(tree.forget_oldest(), None, "the rest is held");
        tree.let_go(1);
        tree.let_go(3);
        assert_eq!(
            (tree.forget_oldest(), tree.forget_oldest()),
            (Some(1), Some(3))
        );
        assert!(tree.starts.is_empty() && !tree.contains(3));
    }

    #[test]
    #[should_panic(expected = "before what follows it")]
    fn letting_go_of_the_first_first_is_a_bug() {
        let mut tree = forked();
        for block in [3, 1, 2] {
            tree.let_go(block);
        }
        tree.forget_oldest();
    }
}
