//! Which token positions are in the key-value cache, as a tree: pure bookkeeping, no tensors.
//!
//! A node is one token after one history under one adapter version, and its id is the cache row that holds its key
//! and value. Whatever shares a history shares its nodes: the samples of a question, the examples at the head of many
//! prompts, a question that is asked again. A sequence holds its last node; a node stays while it is held or has
//! children, and what is left over is evicted, least recently used first, when its place is needed.

use std::collections::{BTreeSet, HashMap};

use crate::engine::handle::Version;

/// A node, and the cache row that belongs to it.
pub type NodeId = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Edge {
    /// The first token of a sequence under an adapter version.
    Root(Version, u32),
    Child(NodeId, u32),
}

#[derive(Debug)]
struct Node {
    edge: Edge,
    position: u32,
    children: u32,
    holds: u32,
    computed: bool,
    last_used: u64,
}

/// The tree over a cache of a fixed number of rows.
#[derive(Debug)]
pub struct PrefixTree {
    capacity: usize,
    /// Of the rows that were ever needed, from the first on, so that memory that never was is never touched. A row is
    /// given from one node to another, never given back.
    nodes: Vec<Node>,
    edges: HashMap<Edge, NodeId>,
    /// Leaves that nobody holds, by last use.
    evictable: BTreeSet<(u64, NodeId)>,
    clock: u64,
}

impl PrefixTree {
    /// An empty tree over `capacity` cache rows.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            nodes: Vec::with_capacity(capacity),
            edges: HashMap::new(),
            evictable: BTreeSet::new(),
            clock: 0,
        }
    }

    /// How many rows there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many rows are occupied, evictable ones included.
    pub fn used(&self) -> usize {
        self.nodes.len()
    }

    /// Holds the first token of a sequence under `version`; see [`Self::hold_child`].
    pub fn hold_root(&mut self, version: &Version, token: u32) -> Option<NodeId> {
        self.hold(Edge::Root(version.clone(), token), 0)
    }

    /// Holds the node that follows `parent` with `token`, making it if need be. The caller holds `parent` or one of
    /// its descendants, so that making room cannot take it. `None` if every row is held or has children.
    pub fn hold_child(&mut self, parent: NodeId, token: u32) -> Option<NodeId> {
        let position = self.node(parent).position + 1;
        self.hold(Edge::Child(parent, token), position)
    }

    /// Holds a node that is held already once more.
    pub fn hold_again(&mut self, id: NodeId) {
        self.node_mut(id).holds += 1;
    }

    /// Gives a hold back.
    pub fn release(&mut self, id: NodeId) {
        self.clock += 1;
        let clock = self.clock;
        let node = self.node_mut(id);
        debug_assert!(node.holds > 0, "a node was released more often than it was held");
        node.holds -= 1;
        node.last_used = clock;
        self.list_if_evictable(id);
    }

    /// The token that a node stands for.
    pub fn token(&self, id: NodeId) -> u32 {
        match self.node(id).edge {
            Edge::Root(_, token) | Edge::Child(_, token) => token,
        }
    }

    /// The position of a node in its sequence, from 0.
    pub fn position(&self, id: NodeId) -> u32 {
        self.node(id).position
    }

    /// Whether the cache row of a node has its key and value.
    pub fn is_computed(&self, id: NodeId) -> bool {
        self.node(id).computed
    }

    /// Says that the cache row of a node now has its key and value.
    pub fn mark_computed(&mut self, id: NodeId) {
        self.node_mut(id).computed = true;
    }

    /// The rows from the first token to this one.
    #[cfg(test)]
    pub fn path(&self, id: NodeId) -> Vec<NodeId> {
        let mut path = vec![id];
        while let Edge::Child(parent, _) = self.node(path[path.len() - 1]).edge {
            path.push(parent);
        }
        path.reverse();
        path
    }

    fn hold(&mut self, edge: Edge, position: u32) -> Option<NodeId> {
        if let Some(&id) = self.edges.get(&edge) {
            let node = self.node_mut(id);
            node.holds += 1;
            let listed = (node.last_used, id);
            self.evictable.remove(&listed);
            return Some(id);
        }
        let node = Node { edge: edge.clone(), position, children: 0, holds: 1, computed: false, last_used: self.clock };
        let id = if self.nodes.len() < self.capacity {
            self.nodes.push(node);
            (self.nodes.len() - 1) as NodeId
        } else {
            let id = self.evict()?;
            *self.node_mut(id) = node;
            id
        };
        if let Edge::Child(parent, _) = edge {
            self.node_mut(parent).children += 1;
        }
        self.edges.insert(edge, id);
        Some(id)
    }

    /// Drops the least recently used leaf that nobody holds and returns its row, for another node.
    fn evict(&mut self) -> Option<NodeId> {
        let (_, id) = self.evictable.pop_first()?;
        let edge = &self.nodes[id as usize].edge;
        self.edges.remove(edge);
        if let &Edge::Child(parent, _) = edge {
            self.node_mut(parent).children -= 1;
            self.list_if_evictable(parent);
        }
        Some(id)
    }

    fn list_if_evictable(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.holds == 0 && node.children == 0 {
            let listed = (node.last_used, id);
            self.evictable.insert(listed);
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Holds a whole sequence and returns its last node; only that one stays held.
    fn hold(tree: &mut PrefixTree, version: &Version, tokens: &[u32]) -> Option<NodeId> {
        let mut last = tree.hold_root(version, *tokens.first()?)?;
        for &token in &tokens[1..] {
            let next = tree.hold_child(last, token);
            tree.release(last);
            last = next?;
        }
        Some(last)
    }

    fn version(digit: char) -> Version {
        digit.to_string().repeat(64).parse().unwrap()
    }

    #[test]
    fn sequences_that_begin_alike_share_their_nodes() {
        let mut tree = PrefixTree::new(16);
        let first = hold(&mut tree, &Version::base(), &[1, 2, 3, 4]).unwrap();
        let second = hold(&mut tree, &Version::base(), &[1, 2, 9]).unwrap();
        assert_eq!(tree.used(), 5);
        assert_eq!(tree.path(first)[..2], tree.path(second)[..2]);
        assert_eq!((tree.position(second), tree.token(second)), (2, 9));
    }

    #[test]
    fn versions_share_nothing() {
        let mut tree = PrefixTree::new(16);
        let first = hold(&mut tree, &version('a'), &[1, 2]).unwrap();
        let second = hold(&mut tree, &version('b'), &[1, 2]).unwrap();
        assert_eq!(tree.used(), 4);
        assert_ne!(tree.path(first)[0], tree.path(second)[0]);
    }

    #[test]
    fn what_is_released_is_found_again_until_its_place_is_needed() {
        let mut tree = PrefixTree::new(4);
        let kept = hold(&mut tree, &Version::base(), &[1, 2]).unwrap();
        tree.mark_computed(kept);
        tree.release(kept);
        let again = hold(&mut tree, &Version::base(), &[1, 2]).unwrap();
        assert!(again == kept && tree.is_computed(again));
        tree.release(again);
        let other = hold(&mut tree, &Version::base(), &[7, 8, 9, 10]).unwrap();
        assert_eq!((tree.used(), tree.position(other)), (4, 3));
        tree.release(other);
        let back = hold(&mut tree, &Version::base(), &[1, 2]).unwrap();
        assert!(!tree.is_computed(back), "it was evicted in between");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut tree = PrefixTree::new(2);
        let [old, new] = [1, 2].map(|token| hold(&mut tree, &Version::base(), &[token]).unwrap());
        tree.mark_computed(new);
        tree.release(old);
        tree.release(new);
        hold(&mut tree, &Version::base(), &[3]).unwrap();
        let still_there = hold(&mut tree, &Version::base(), &[2]).unwrap();
        assert!(tree.is_computed(still_there));
    }

    #[test]
    fn what_is_held_is_never_taken() {
        let mut tree = PrefixTree::new(3);
        let held = hold(&mut tree, &Version::base(), &[1, 2, 3]).unwrap();
        assert_eq!(hold(&mut tree, &Version::base(), &[5]), None);
        assert_eq!(tree.path(held).len(), 3);
    }

    proptest! {
        /// Any order of holding and releasing keeps held sequences whole and finds room for what fits.
        #[test]
        fn held_sequences_stay_whole(steps in prop::collection::vec((prop::collection::vec(0u32..4, 1..6), any::<bool>()), 1..60)) {
            let mut tree = PrefixTree::new(24);
            let mut held: Vec<(NodeId, Vec<u32>)> = Vec::new();
            for (tokens, release) in steps {
                if release && !held.is_empty() {
                    let (node, _) = held.remove(tokens.len() % held.len());
                    tree.release(node);
                }
                // At most four sequences of five tokens: they fit whatever they share.
                if held.len() < 4 {
                    let node = hold(&mut tree, &Version::base(), &tokens);
                    prop_assert!(node.is_some());
                    held.push((node.unwrap(), tokens));
                }
                for (node, tokens) in &held {
                    let path: Vec<u32> = tree.path(*node).into_iter().map(|id| tree.token(id)).collect();
                    prop_assert_eq!(&path, tokens);
                }
                prop_assert!(tree.used() <= tree.capacity());
            }
        }
    }
}
