//! One spelling for what is written in many: Unicode, LaTeX's spacing and delimiters, marks around an answer.

use super::{lex::QUAD, unit::is_unit_word};

/// The answer without what says how it is set, in ASCII as far as it has mathematical meaning.
pub(super) fn clean(answer: &str) -> String {
    let text = halve_backslashes(&without_bullets(&to_ascii(answer)));
    // A line break of a matrix is one sign from here on: `\\\\ 0` has no `\\ ` in it.
    let mut text = text.trim().replace("\\\\", "\u{2}");
    for (from, to) in REWRITES {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    let text = unwrap_dollars(&text);
    with_unit(strip(&text))
}

/// Lines without the marks of items: `- $5$`, and equations below each other. `- 5` may be negative.
fn without_bullets(text: &str) -> String {
    let is_set = |item: &str| {
        let formula = item.trim_end_matches([' ', '.', ',', ';']);
        formula.starts_with('$') && formula.ends_with('$') && formula.matches('$').count() == 2
    };
    let (_, below) = text.split_once('\n').unwrap_or_default();
    let mut others = below.lines().filter(|line| !line.trim().is_empty()).peekable();
    let are_equations = others.peek().is_some() && others.all(|line| line.contains('=') && item(line).is_some());
    let lines = text.lines().map(|line| match item(line) {
        Some(item) if are_equations || is_set(item) => item,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands behind the mark of an item at the beginning of a line.
fn item(line: &str) -> Option<&str> {
    ["- ", "* ", "+ ", "\u{2022} "].iter().find_map(|mark| line.trim_start().strip_prefix(mark))
}

/// `5 (in dollars)` as `5 dollars`.
fn with_unit(text: &str) -> String {
    match text.strip_suffix(')').and_then(|text| text.split_once(" (in ")) {
        Some((figure, unit)) if is_unit_word(unit) => format!("{figure} {unit}"),
        _ => text.to_owned(),
    }
}

/// LaTeX spellings with another one that means the same. The order matters.
const REWRITES: [(&str, &str); 64] = [
    ("\\begin{vmatrix}", "|\\begin{matrix}"),
    ("\\end{vmatrix}", "\\end{matrix}|"),
    ("\\left.", ""),
    ("\\right.", ""),
    ("\\left", ""),
    ("\\right", ""),
    ("\\Bigl", ""),
    ("\\Bigr", ""),
    ("\\bigl", ""),
    ("\\bigr", ""),
    ("\\Big", ""),
    ("\\big", ""),
    ("\\displaystyle", ""),
    ("\\limits", ""),
    ("{, }", "{,}"),
    (" {,}", "{,}"),
    ("{,}\\!", "{,}"),
    (",\\!\\!", "{,}"),
    (",\\!", "{,}"),
    ("\\!", ""),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("^{\\prime}", "'"),
    ("^\\prime", "'"),
    ("^{\\circ}", "\u{b0}"),
    ("^\\circ", "\u{b0}"),
    ("^ \\circ", "\u{b0}"),
    ("\\degree", "\u{b0}"),
    ("\u{b0}\\text{C}", "\u{b0}C"),
    ("\u{b0}\\text{F}", "\u{b0}F"),
    ("\\%", "%"),
    ("\\qquad", "\u{2003}"),
    ("\\quad", "\u{2003}"),
    ("\\;", " \u{2005}"),
    ("\\:", " \u{2005}"),
    ("\\>", " \u{2005}"),
    ("\\ ", " \u{2005}"),
    ("~", " \u{2005}"),
    ("\\,", "\u{2009}"),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\\lbrack", "["),
    ("\\rbrack", "]"),
    ("\\lvert", "|"),
    ("\\rvert", "|"),
    ("\\vert", "|"),
    ("\\dots", "..."),
    ("\\ldots", "..."),
    ("\\cdots", "..."),
    ("\u{2026}", "..."),
    ("\\geqslant", "\\ge"),
    ("\\leqslant", "\\le"),
    ("\\exponentialE", "e"),
    ("\\mathrm{e}", "e"),
    ("\\mathrm{i}", "i"),
    ("\\colon", ":"),
    ("\\not=", "\\ne "),
    ("\\not\\in", "\\notin"),
    (") U (", ") \\cup ("),
    (") U [", ") \\cup ["),
    ("] U (", "] \\cup ("),
    ("] U [", "] \\cup ["),
    ("U.S.", "US"),
];

/// Letters and signs outside ASCII with what they are in LaTeX.
const SIGNS: [(char, &str); 76] = [
    ('\u{2212}', "-"),
    ('\u{2013}', "-"),
    ('\u{2010}', "-"),
    ('\u{2011}', "-"),
    ('\u{d7}', "\\times "),
    ('\u{b7}', "\\cdot "),
    ('\u{22c5}', "\\cdot "),
    ('\u{2219}', "\\cdot "),
    ('\u{f7}', "\\div "),
    ('\u{221a}', " sqrt "),
    ('\u{221b}', "\\sqrt[3]"),
    ('\u{3c0}', "\\pi "),
    ('\u{221e}', "\\infty "),
    ('\u{2264}', "\\le "),
    ('\u{2265}', "\\ge "),
    ('\u{2260}', "\\ne "),
    ('\u{2248}', "\\approx "),
    ('\u{222a}', "\\cup "),
    ('\u{2229}', "\\cap "),
    ('\u{2208}', "\\in "),
    ('\u{2209}', "\\notin "),
    ('\u{2261}', "\\equiv "),
    ('\u{b1}', "\\pm "),
    ('\u{2213}', "\\mp "),
    ('\u{2205}', "\\emptyset "),
    ('\u{211d}', "\\mathbb{R}"),
    ('\u{2032}', "'"),
    ('\u{2019}', "'"),
    ('\u{2018}', "'"),
    ('\u{201c}', "\""),
    ('\u{201d}', "\""),
    ('\u{27e8}', "\\langle "),
    ('\u{27e9}', "\\rangle "),
    ('\u{2220}', "\\angle "),
    ('\u{3001}', ","),
    ('\u{3002}', "."),
    ('\u{2236}', ":"),
    ('\u{a0}', " "),
    ('\u{202f}', "\u{2009}"),
    ('\u{200b}', ""),
    ('\u{bd}', "\\frac{1}{2}"),
    ('\u{bc}', "\\frac{1}{4}"),
    ('\u{be}', "\\frac{3}{4}"),
    ('\u{2153}', "\\frac{1}{3}"),
    ('\u{2154}', "\\frac{2}{3}"),
    ('\u{2215}', "/"),
    ('\u{2044}', "/"),
    ('\u{3b1}', "\\alpha "),
    ('\u{3b2}', "\\beta "),
    ('\u{3b3}', "\\gamma "),
    ('\u{3b4}', "\\delta "),
    ('\u{3b5}', "\\epsilon "),
    ('\u{3b8}', "\\theta "),
    ('\u{3bb}', "\\lambda "),
    ('\u{3bc}', "\\mu "),
    ('\u{3c1}', "\\rho "),
    ('\u{3c3}', "\\sigma "),
    ('\u{3c4}', "\\tau "),
    ('\u{3c6}', "\\phi "),
    ('\u{3d5}', "\\varphi "),
    ('\u{3f5}', "\\varepsilon "),
    ('\u{3c9}', "\\omega "),
    ('\u{394}', "\\Delta "),
    ('\u{3a9}', "\\Omega "),
    ('\u{2192}', "\\to "),
    ('\u{2216}', "\\setminus "),
    ('\u{230a}', "\\lfloor "),
    ('\u{230b}', "\\rfloor "),
    ('\u{2308}', "\\lceil "),
    ('\u{2309}', "\\rceil "),
    ('\u{ba}', "\u{b0}"),
    ('\u{2124}', "\\mathbb{Z}"),
    ('\u{2228}', "\\lor "),
    ('\u{2227}', "\\land "),
    ('\u{2014}', "-"),
    ('\u{3bd}', "\\nu "),
];

const SUPERSCRIPTS: &str = "\u{2070}\u{b9}\u{b2}\u{b3}\u{2074}\u{2075}\u{2076}\u{2077}\u{2078}\u{2079}";

fn to_ascii(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut raised = false;
    for c in text.chars() {
        // Square metres: a formula would have a letter with an exponent of its own.
        let is_metres =
            out.strip_suffix('m').is_some_and(|rest| rest.trim_end().ends_with(|c: char| c.is_ascii_digit()));
        if matches!(c, '\u{b2}' | '\u{b3}') && is_metres {
            out.truncate(out.len() - 1);
            out.push_str("\\text{ m}");
        }
        let superscript = match c {
            '\u{207b}' => Some('-'),
            '\u{207f}' => Some('n'),
            _ => SUPERSCRIPTS.chars().position(|s| s == c).and_then(|d| char::from_digit(d as u32, 10)),
        };
        match (superscript, raised) {
            (Some(_), false) => out.push_str("^{"),
            (None, true) => out.push('}'),
            _ => {}
        }
        raised = superscript.is_some();
        if let Some(digit) = superscript {
            out.push(digit);
        } else if let Some((_, latex)) = SIGNS.iter().find(|(sign, _)| *sign == c) {
            out.push_str(latex);
        } else {
            match c {
                // Full-width forms are ASCII's, shifted.
                '\u{ff01}'..='\u{ff5e}' => out.push(char::from_u32(c as u32 - 0xfee0).unwrap_or(c)),
                '\u{2080}'..='\u{2089}' => {
                    out.push('_');
                    out.push(char::from_digit(c as u32 - 0x2080, 10).unwrap_or(c));
                }
                '\u{3000}' | '\u{2003}' | '\u{2002}' => out.push(' '),
                _ => out.push(c),
            }
        }
    }
    if raised {
        out.push('}');
    }
    out
}

/// Some data has backslashes twice. Before a command that can only be a mistake, but in a matrix, where it ends a row: there,
/// only if no command has a single one.
fn halve_backslashes(text: &str) -> String {
    let doubled = text.match_indices("\\\\").any(|(at, _)| starts_command(&text[at + 2..]));
    if !doubled || text.contains("\\\\\\") {
        return text.to_owned();
    }
    let is_single = |at: usize| starts_command(&text[at + 1..]) && !text[..at].ends_with('\\');
    if text.contains("\\begin") && text.match_indices('\\').any(|(at, _)| is_single(at)) {
        return text.to_owned();
    }
    text.replace("\\\\", "\\")
}

fn starts_command(text: &str) -> bool {
    text.chars().take_while(char::is_ascii_alphabetic).count() > 1
}

/// Without the dollars around formulas. A single one is the currency, and so is an escaped one.
fn unwrap_dollars(text: &str) -> String {
    let plain = text.replace("$$", "$").replace("\\$", "\u{1}");
    // No amount of money has three decimals: a single dollar behind them is the end of a formula.
    let decimals = plain.strip_suffix('$').and_then(|rest| rest.rsplit_once('.')).map_or("", |(_, decimals)| decimals);
    let stray = plain.matches('$').count() == 1 && decimals.len() > 2 && decimals.bytes().all(|b| b.is_ascii_digit());
    let plain = if stray || plain.matches('$').count().is_multiple_of(2) {
        // Between two formulas there is as much as nothing.
        let parts: Vec<&str> = plain.split('$').collect();
        let is_joint =
            |at: usize| at.is_multiple_of(2) && at > 0 && at + 1 < parts.len() && parts[at].trim().is_empty();
        let part = |(at, part): (usize, &&str)| if is_joint(at) { QUAD.to_string() } else { (*part).to_owned() };
        parts.iter().enumerate().map(part).collect::<Vec<_>>().join(" ")
    } else {
        plain.replacen('$', "\u{1}", 1)
    };
    plain.replace('\u{1}', "\\$")
}

/// The marks around a block of code.
pub(super) const FENCE: &str = "```";

/// Delimiters that say how an answer is set, not what it is.
const WRAPPERS: [(&str, &str); 11] = [
    (FENCE, FENCE),
    ("**", "**"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("`", "`"),
    ("\"", "\""),
    ("\\\"", "\\\""),
    ("'", "'"),
    ("\\boxed{", "}"),
    ("\\fbox{", "}"),
    ("\\mathbf{", "}"),
];

/// Takes off surrounding whitespace, wrappers and trailing punctuation until nothing changes.
fn strip(text: &str) -> &str {
    let mut text = text.trim();
    // Every turn shortens the text.
    while let Some(inner) = strip_mark(text).or_else(|| strip_wrapper(text)) {
        text = inner.trim();
    }
    text
}

/// Without a trailing `.`, `,`, `;` or `:`, or a sign that only adorns. An ellipsis stays: `0.333...` is not 0.333.
fn strip_mark(text: &str) -> Option<&str> {
    let stop = || text.strip_suffix(['.', ',', ';', ':']).filter(|inner| !inner.ends_with(['.', '\\']));
    text.strip_suffix(is_ornament).or_else(stop)
}

/// Whether a sign approves of an answer, or only adorns it. Crosses deny it, and others, such as circled digits, may be it.
fn is_ornament(c: char) -> bool {
    const CHECKS: [char; 6] = ['\u{2705}', '\u{2713}', '\u{2714}', '\u{2611}', '\u{2728}', '\u{2b50}'];
    const PICTURES: [char; 7] =
        ['\u{1f389}', '\u{1f38a}', '\u{1f3af}', '\u{1f4a1}', '\u{1f4af}', '\u{1f44d}', '\u{1f680}'];
    CHECKS.contains(&c) || PICTURES.contains(&c) || matches!(c, '\u{fe0f}' | '\u{1f600}'..='\u{1f60f}')
}

/// Without the wrapper around the whole text; `\(1\) or \(2\)` has none.
fn strip_wrapper(text: &str) -> Option<&str> {
    WRAPPERS.iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(open)?.strip_suffix(close)?;
        if *close == "}" {
            // A letter in bold is another one.
            let is_letter = *open == "\\mathbf{" && inner.len() == 1;
            return (!is_letter && depth_stays_positive(inner)).then_some(inner);
        }
        let inner = if *open == FENCE { without_language(inner) } else { inner };
        (!inner.contains(open) && !inner.contains(close)).then_some(inner)
    })
}

/// What stands in a fenced block, without the name of a language in its first line, unless that is one of programs.
pub(super) fn without_language(block: &str) -> &str {
    const PLAIN: [&str; 8] = ["text", "txt", "plaintext", "math", "latex", "tex", "output", "json"];
    block.split_once('\n').filter(|(first, _)| PLAIN.contains(&first.trim())).map_or(block, |(_, content)| content)
}

/// Whether the brace before this text is not closed within it.
fn depth_stays_positive(inner: &str) -> bool {
    let mut depth = 0i32;
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}
