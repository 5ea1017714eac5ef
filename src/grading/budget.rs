//! Bounds on the work that one answer may cause. They count steps, so that a verdict never depends on a clock.

use std::cell::{Cell, RefCell};

use super::{
    evaluate::{Asked, Digest},
    expression::Expression,
    numeric::{complex::Complex, elementary::Elementary, part::Number},
};

/// The longest answer, in bytes, that is read as more than text.
pub(super) const MAX_BYTES: usize = 2000;
/// The most tokens of an answer.
pub(super) const MAX_TOKENS: usize = 600;
/// The most letters that are factors in an expression, where words are products.
pub(super) const MAX_LETTERS: usize = 300;
/// How deeply brackets, braces and operators may be nested. A level of parsing takes a few stack frames.
pub(super) const MAX_DEPTH: usize = 40;
/// The most digits of all numbers of an answer together, were they written without exponents.
pub(super) const MAX_DIGITS: usize = 4000;
/// The most bits of a numerator or a denominator; about 1,200 decimal digits. What is longer is not computed.
pub(super) const MAX_EXACT_BITS: u64 = 4096;
/// Steps an answer may take in all. A step is roughly a product of two numbers of four hundred digits, a microsecond.
const STEPS: u32 = 4000;
/// Steps in which one part of a response is looked at that may be its answer.
const EXTRACTION_STEPS: u32 = 1000;
/// Steps in which all parts of a response are looked at together.
const SEARCH_STEPS: u32 = 2000;
/// Steps in which an answer is compared, in one tally, with those that it may be a rounding of.
const ROUNDING_STEPS: u32 = 80;

thread_local! {
    /// The steps that are left of the search at hand, `None` once it has asked for more. It is one for all the looks at
    /// parts of a response, which are far from each other, and no result depends on what another search has left.
    static SEARCH: Cell<Option<u32>> = const { Cell::new(Some(SEARCH_STEPS)) };
}

/// What a search through a response finds within its steps. One that runs out of them finds nothing: the part that it
/// has not read may be the answer, or take it back.
pub(super) fn search<T>(find: impl FnOnce() -> Option<T>) -> Option<T> {
    SEARCH.set(Some(SEARCH_STEPS));
    let found = find();
    SEARCH.replace(Some(SEARCH_STEPS)).and(found)
}

/// What was asked of an expression, and the answer.
struct Known {
    asked: Asked,
    of: Expression,
    numbers: Option<Vec<Number>>,
}

/// The steps that are left, and what has been computed with the others.
pub(super) struct Budget {
    left: Cell<u32>,
    /// Whether the steps are those of the search at hand, too.
    searches: bool,
    known: RefCell<Vec<Known>>,
    values: RefCell<Vec<(Elementary, Complex, Complex)>>,
    drawn: RefCell<Vec<(Digest, Complex)>>,
}

impl Budget {
    pub fn new() -> Self {
        Self::of(STEPS)
    }

    /// For a part of a response that may be its answer.
    pub fn for_extraction() -> Self {
        Self { searches: true, ..Self::of(EXTRACTION_STEPS) }
    }

    /// For the roundings of one answer in a tally.
    pub fn for_roundings() -> Self {
        Self::of(ROUNDING_STEPS)
    }

    fn of(steps: u32) -> Self {
        Self {
            left: Cell::new(steps),
            searches: false,
            known: RefCell::default(),
            values: RefCell::default(),
            drawn: RefCell::default(),
        }
    }

    /// Takes so many steps; `None` if fewer are left.
    pub fn take(&self, steps: u32) -> Option<()> {
        if self.searches {
            SEARCH.set(SEARCH.get().and_then(|left| left.checked_sub(steps)));
            SEARCH.get()?;
        }
        self.left.set(self.left.get().checked_sub(steps)?);
        Some(())
    }

    /// The value of a function, which is computed, and paid for, once for each argument.
    pub fn value_of(&self, function: Elementary, argument: &Complex) -> Option<Complex> {
        let is_it = |(own, of, _): &&(Elementary, Complex, Complex)| *own == function && of.is_identical(argument);
        if let Some((_, _, value)) = self.values.borrow().iter().find(is_it) {
            return Some(value.clone());
        }
        self.take(function.steps(argument))?;
        let value = function.apply(argument)?;
        self.values.borrow_mut().push((function, argument.clone(), value.clone()));
        Some(value)
    }

    /// The number that a digest draws, which is drawn once.
    pub fn at_random(&self, digest: Digest) -> Complex {
        let known = self.drawn.borrow().iter().find(|(own, _)| *own == digest).map(|(_, number)| number.clone());
        known.unwrap_or_else(|| {
            let number = digest.complex();
            self.drawn.borrow_mut().push((digest, number.clone()));
            number
        })
    }

    /// What `compute` says of an expression, which is asked once only.
    pub fn remember(
        &self,
        asked: Asked,
        expression: &Expression,
        compute: impl FnOnce() -> Option<Vec<Number>>,
    ) -> Option<Vec<Number>> {
        let is_it = |known: &&Known| known.asked == asked && known.of == *expression;
        let known = self.known.borrow().iter().find(is_it).map(|known| known.numbers.clone());
        known.unwrap_or_else(|| {
            let numbers = compute();
            self.known.borrow_mut().push(Known { asked, of: expression.clone(), numbers: numbers.clone() });
            numbers
        })
    }
}
