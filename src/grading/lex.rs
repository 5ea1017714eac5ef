//! Tokens of a cleaned answer.

mod numbers;

use num_rational::BigRational;

use super::{
    beside::side_by_side,
    budget::{MAX_DEPTH, MAX_TOKENS},
    vocabulary::{is_integrated, is_vector},
};

/// A number as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    pub value: BigRational,
    /// The digits before the point, without grouping, if there is nothing behind it.
    pub digits: String,
    /// How many digits are behind the point; `None` for an integer or a repeating decimal.
    pub places: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Number(Literal),
    /// Letters in a row, outside of any command.
    Word(String),
    /// `\name`, without the backslash.
    Command(String),
    /// A letter that stands for a set of numbers: `\mathbb{R}`.
    Domain(char),
    /// The content of `\text{...}` and its kin.
    Text(String),
    /// A bracket that means what it shows: `(`, `[`, `{` for `\{`, `<` for `\langle`.
    Open(char),
    Close(char),
    /// A brace that only groups.
    Group,
    EndGroup,
    /// The beginning and the end of a matrix.
    Begin,
    End,
    /// Between the rows of a matrix, or between formulas that stand side by side.
    Row,
    Ellipsis,
    /// A decimal that goes on behind its ellipsis in a way that is not shown.
    Unknown,
    Sign(char),
}

/// How far a token is from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    None,
    /// A space, which LaTeX does not print.
    Space,
    /// A space that is printed: `\,`, `\;`, `~`.
    Printed,
    /// As between two formulas: `\quad`, a new line.
    Wide,
}

impl Gap {
    fn of(space: &str) -> Self {
        space.chars().map(Self::of_char).max().unwrap_or(Self::None)
    }

    fn of_char(space: char) -> Self {
        match space {
            '\n' | QUAD => Self::Wide,
            '\u{2005}' | '\u{2009}' => Self::Printed,
            _ => Self::Space,
        }
    }
}

/// What cleaning makes of a wide space.
pub(super) const QUAD: char = '\u{2003}';

/// A token, and what white space stands before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    pub gap: Gap,
}

impl Token {
    pub fn is_spaced(&self) -> bool {
        self.gap != Gap::None
    }
}

/// The tokens of a text; `None` if it is too long, nested too deeply, unbalanced, or not understood.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut lexer = Lexer { text, at: 0, brackets: vec![], tokens: vec![], digits: 0 };
    loop {
        let gap = lexer.skip_space();
        if lexer.at == text.len() {
            break;
        }
        if gap == Gap::Wide {
            lexer.tokens.push(Token { kind: Kind::Row, gap });
        }
        let kind = lexer.next()?;
        lexer.tokens.push(Token { kind, gap });
        if lexer.tokens.len() > MAX_TOKENS || lexer.brackets.len() > MAX_DEPTH {
            return None;
        }
    }
    Some(side_by_side(&lexer.tokens))
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// For each open bracket, whether commas in it separate even where they could group digits.
    brackets: Vec<bool>,
    tokens: Vec<Token>,
    /// How many digits the numbers so far have, with those that their exponents stand for.
    digits: usize,
}

/// Commands whose argument is words.
const TEXTS: [&str; 9] = ["text", "mbox", "textbf", "textit", "textnormal", "textrm", "hbox", "mathrm", "operatorname"];
/// Commands that change the look of their argument, or are spacing.
const LOOKS: [&str; 7] = ["mathit", "mathsf", "mathcal", "textstyle", "boxed", "fbox", "rm"];
/// Commands that set their argument in bold. A letter in bold is another one than in its usual look.
const BOLD: [&str; 3] = ["mathbf", "boldsymbol", "bm"];
const MATRICES: [&str; 6] = ["matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"];
/// Environments that only set formulas on lines of their own.
const LINES: [&str; 7] = ["align", "aligned", "cases", "gather", "gathered", "split", "eqnarray"];

/// Whether a command says how words are set, and not what they are.
pub(super) fn is_setting(name: &str) -> bool {
    TEXTS.contains(&name)
        || LOOKS.contains(&name)
        || BOLD.contains(&name)
        || matches!(name, "left" | "right" | "displaystyle" | "quad" | "qquad")
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.at += prefix.len();
        }
        found
    }

    fn skip_space(&mut self) -> Gap {
        let rest = self.rest();
        let space = &rest[..rest.len() - rest.trim_start().len()];
        self.at += space.len();
        Gap::of(space)
    }

    fn run(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let run = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        self.at += run.len();
        run
    }

    fn next(&mut self) -> Option<Kind> {
        let c = self.rest().chars().next()?;
        if c.is_ascii_digit() || (c == '.' && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit() || c == '(')) {
            return self.number();
        }
        if self.eat("...") {
            return Some(Kind::Ellipsis);
        }
        if c.is_alphabetic() {
            return Some(self.word(c));
        }
        if c == '\\' {
            return self.command();
        }
        self.at += c.len_utf8();
        match c {
            '(' | '[' => Some(self.open(c)),
            ')' | ']' => self.close(c),
            '{' => {
                self.open('g');
                Some(Kind::Group)
            }
            '}' => {
                self.close('g')?;
                Some(Kind::EndGroup)
            }
            // What cleaning makes of a doubled backslash.
            '\u{2}' => {
                self.skip_distance();
                Some(Kind::Row)
            }
            '<' if self.eat("=") => Some(Kind::Sign('\u{2264}')),
            '>' if self.eat("=") => Some(Kind::Sign('\u{2265}')),
            '!' if self.eat("=") => Some(Kind::Sign('\u{2260}')),
            '+' if self.eat("/-") => Some(Kind::Sign('\u{b1}')),
            '\u{2217}' => Some(Kind::Sign('*')),
            '*' if self.eat("*") => Some(Kind::Sign('^')),
            _ => Some(Kind::Sign(c)),
        }
    }

    /// Letters in a row; behind `\frac` and its kin, only the one that is an argument.
    fn word(&mut self, first: char) -> Kind {
        let is_times = first == 'x' && matches!(self.tokens.last(), Some(Token { kind: Kind::Number(_), .. }));
        // `1.5 x 10^3`
        if is_times && self.rest()[1..].trim_start().starts_with("10^") {
            self.at += 1;
            return Kind::Sign('*');
        }
        if self.is_before_argument() {
            self.at += first.len_utf8();
            return Kind::Word(first.to_string());
        }
        Kind::Word(self.run(char::is_alphabetic).to_owned())
    }

    /// Whether an argument without braces comes next: the first one, or the second one behind a letter or a digit.
    fn is_before_argument(&self) -> bool {
        let takes = |token: &Token, names: &[&str]| match &token.kind {
            Kind::Command(name) => names.contains(&name.as_str()),
            _ => false,
        };
        let is_short = |token: &Token| match &token.kind {
            Kind::Word(word) => word.chars().count() == 1,
            Kind::Number(literal) => literal.digits.len() == 1,
            _ => false,
        };
        match &self.tokens[..] {
            [.., last] if takes(last, &["frac", "binom", "dbinom", "tbinom", "sqrt"]) => true,
            [.., command, argument] => takes(command, &["frac", "binom", "dbinom", "tbinom"]) && is_short(argument),
            _ => false,
        }
    }

    /// How far apart rows are: `[2pt]`.
    fn skip_distance(&mut self) {
        let inside = self.rest().strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
        let is_length = |text: &str| ["pt", "em", "ex", "mm", "cm"].iter().any(|unit| text.ends_with(unit));
        if let Some(length) = inside.filter(|inside| is_length(inside)) {
            self.at += length.len() + 2;
        }
    }

    fn open(&mut self, bracket: char) -> Kind {
        let inside = self.inside();
        let separates = !(inside.contains(", ") || inside.contains(';'));
        let nested = self.brackets.last().copied().unwrap_or(false);
        self.brackets.push(if bracket == 'g' { nested || inside.contains(',') && separates } else { separates });
        Kind::Open(bracket)
    }

    /// The text up to where the bracket that was just opened is closed.
    fn inside(&self) -> &'a str {
        let mut depth = 1i32;
        for (at, c) in self.rest().char_indices().take(400) {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return &self.rest()[..at];
            }
        }
        self.rest()
    }

    fn close(&mut self, bracket: char) -> Option<Kind> {
        self.brackets.pop()?;
        Some(Kind::Close(bracket))
    }

    fn command(&mut self) -> Option<Kind> {
        self.at += 1;
        let name = self.run(|c| c.is_ascii_alphabetic());
        if name.is_empty() {
            let c = self.rest().chars().next()?;
            self.at += c.len_utf8();
            return match c {
                '{' => Some(self.open('{')),
                '}' => self.close('{'),
                '|' => Some(Kind::Sign('\u{2016}')),
                '$' | '&' | '#' => Some(Kind::Sign(c)),
                '(' | ')' | '[' | ']' => self.skip(),
                _ => None,
            };
        }
        match name {
            "mathbb" | "Bbb" => self.domain(),
            "R" | "N" | "Z" | "Q" => Some(Kind::Domain(name.chars().next()?)),
            "langle" => Some(self.open('<')),
            "rangle" => self.close('<'),
            "begin" | "end" => {
                let environment = self.braced()?;
                let base = environment.trim_end_matches('*');
                if LINES.contains(&base) {
                    return Some(Kind::Row);
                }
                if !MATRICES.contains(&base) {
                    return None;
                }
                if name == "end" {
                    return Some(Kind::End);
                }
                if base == "array" {
                    self.braced()?;
                }
                Some(Kind::Begin)
            }
            // A product of vectors is another one than that of numbers.
            "times" if self.is_behind_vector() => None,
            "cdot" | "times" | "ast" => Some(Kind::Sign('*')),
            "div" => Some(Kind::Sign('/')),
            "lt" => Some(Kind::Sign('<')),
            "gt" => Some(Kind::Sign('>')),
            "le" | "leq" => Some(Kind::Sign('\u{2264}')),
            "ge" | "geq" => Some(Kind::Sign('\u{2265}')),
            "ne" | "neq" => Some(Kind::Sign('\u{2260}')),
            "approx" | "simeq" => Some(Kind::Sign('\u{2248}')),
            "in" => Some(Kind::Sign('\u{2208}')),
            "notin" => Some(Kind::Sign('\u{2209}')),
            // One letter, in two shapes.
            "varphi" | "varepsilon" | "vartheta" | "varrho" => Some(Kind::Command(name["var".len()..].to_owned())),
            // One arrow, however long.
            "overrightarrow" => Some(Kind::Command("vec".to_owned())),
            // Letters without dots, below hats.
            "imath" => Some(Kind::Word("i".to_owned())),
            "jmath" => Some(Kind::Word("j".to_owned())),
            "cup" => Some(Kind::Sign('\u{222a}')),
            "cap" => Some(Kind::Sign('\u{2229}')),
            "setminus" | "backslash" => Some(Kind::Sign('\u{2216}')),
            "pm" => Some(Kind::Sign('\u{b1}')),
            "mp" => Some(Kind::Sign('\u{2213}')),
            "mid" => Some(Kind::Sign('|')),
            "euro" => Some(Kind::Sign('\u{20ac}')),
            "pounds" => Some(Kind::Sign('\u{a3}')),
            _ if BOLD.contains(&name) && self.is_before_letter() => Some(Kind::Command("mathbf".to_owned())),
            _ if TEXTS.contains(&name) => self.text_command(name),
            _ if LOOKS.contains(&name) || BOLD.contains(&name) => self.skip(),
            // A command runs into the letters behind it where the space was lost: `\quadx`.
            _ => Some(Kind::Command(name.to_owned())),
        }
    }

    /// The letter behind `\mathbb`, in braces or not.
    fn domain(&mut self) -> Option<Kind> {
        self.skip_space();
        if self.rest().starts_with('{') {
            let mut letters = self.braced()?.trim().chars();
            return letters.next().filter(|_| letters.next().is_none()).map(Kind::Domain);
        }
        let letter = self.rest().chars().next().filter(|c| c.is_ascii_alphabetic())?;
        self.at += 1;
        Some(Kind::Domain(letter))
    }

    /// Whether the last token is a letter with an arrow or in bold, in braces or not.
    fn is_behind_vector(&self) -> bool {
        let mut before = self.tokens.iter().rev().map(|token| &token.kind);
        let is_word = |kind: Option<&Kind>| matches!(kind, Some(Kind::Word(_)));
        let is_letter = match before.next() {
            Some(Kind::EndGroup) => is_word(before.next()) && before.next() == Some(&Kind::Group),
            last => is_word(last),
        };
        is_letter && matches!(before.next(), Some(Kind::Command(name)) if is_vector(name))
    }

    /// Whether one letter stands here, in braces.
    fn is_before_letter(&self) -> bool {
        let mut argument = self.rest().trim_start().chars();
        argument.next() == Some('{')
            && argument.next().is_some_and(|c| c.is_ascii_alphabetic())
            && argument.next() == Some('}')
    }

    /// The next token in the place of one that means nothing.
    fn skip(&mut self) -> Option<Kind> {
        self.skip_space();
        if self.at == self.text.len() { None } else { self.next() }
    }

    fn text_command(&mut self, name: &str) -> Option<Kind> {
        let content = self.braced()?;
        let inner = content.trim();
        let lone = inner.chars().count() == 1;
        // Behind a number, a letter that is a unit is one; other upright letters are letters, and upright names of functions
        // are functions.
        let behind =
            matches!(self.tokens.last(), Some(Token { kind: Kind::Number(_) | Kind::EndGroup | Kind::Close(_), .. }));
        let is_unit = behind && matches!(inner, "m" | "g" | "s" | "h" | "l" | "L" | "N" | "J" | "W" | "V" | "A" | "K");
        if (lone && inner.chars().all(char::is_alphabetic) && !is_unit)
            || (!lone && matches!(name, "mathrm" | "operatorname") && inner.chars().all(|c| c.is_ascii_alphabetic()))
        {
            // An upright `d` begins a differential.
            let is_differential = inner == "d" && self.is_before_variable();
            let letters = inner.to_owned();
            return Some(if is_differential { Kind::Command(letters) } else { Kind::Word(letters) });
        }
        Some(Kind::Text(content.replace(['$', '\u{2009}'], " ")))
    }

    /// Whether one letter comes next, and not more of them.
    fn is_before_variable(&self) -> bool {
        let rest = self.rest().trim_start();
        let name = rest.strip_prefix('\\').unwrap_or(rest);
        let name = &name[..name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len())];
        name.len() == 1 || rest.starts_with('\\') && is_integrated(name)
    }

    /// What stands in the braces that come next.
    fn braced(&mut self) -> Option<&'a str> {
        self.skip_space();
        if !self.eat("{") {
            return None;
        }
        let mut depth = 1usize;
        for (offset, c) in self.rest().char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let content = &self.rest()[..offset];
                self.at += offset + 1;
                return Some(content);
            }
        }
        None
    }

    fn digits(&mut self) -> &'a str {
        self.run(|c| c.is_ascii_digit())
    }
}
