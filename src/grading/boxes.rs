//! `\boxed{...}` in responses.

use super::words::is_junction;

/// The boxes at the end of a response that belong together, as parts of it.
pub(super) struct Boxes<'a> {
    pub contents: Vec<&'a str>,
    /// Where the last box ends, in bytes.
    pub end: usize,
}

/// The last box, with those before it that it is listed with: `\boxed{1} and \boxed{2}`. `None` if no box is opened;
/// `Some(None)` if the last one is never closed.
pub(super) fn last_boxes(response: &str) -> Option<Option<Boxes<'_>>> {
    let mut openings: Vec<(usize, usize)> = ["\\boxed", "\\fbox"]
        .iter()
        .flat_map(|command| response.match_indices(command).map(|(at, command)| (at, at + command.len())))
        .filter_map(|(at, end)| {
            let rest = &response[end..];
            let content = rest.trim_start().strip_prefix('{')?;
            Some((at, response.len() - content.len()))
        })
        .collect();
    openings.sort_unstable();
    // More boxes than that are no list of answers.
    const MOST: usize = 60;
    let skipped = openings.len().saturating_sub(MOST);
    let mut boxes: Vec<(usize, &str, usize)> = vec![];
    for (at, start) in openings.drain(..).skip(skipped) {
        // A box in a box is a part of its content.
        if boxes.last().is_some_and(|(_, _, end)| at < *end) {
            continue;
        }
        match until_closed(&response[start..]) {
            Some(content) => boxes.push((at, content, start + content.len() + 1)),
            None => return Some(None),
        }
    }
    let end = boxes.last()?.2;
    let mut contents: Vec<&str> = vec![];
    let mut begin = response.len();
    for (at, content, end) in boxes.into_iter().rev() {
        if contents.is_empty() || listed(&response[end..begin]) {
            contents.insert(0, content.trim());
            begin = at;
        } else {
            break;
        }
    }
    Some(Some(Boxes { contents, end }))
}

/// Whether what stands between two boxes makes a list of them: marks alone, or a few words with `and` or `or`.
fn listed(between: &str) -> bool {
    if between.len() > 60 || between.contains('\n') && between.contains(|c: char| c.is_alphanumeric()) {
        return false;
    }
    // The backslash before a box may be doubled.
    let between = between.trim_end_matches('\\');
    let words: Vec<String> = between
        .replace("\\text", " ")
        .replace("\\quad", " ")
        .split(|c: char| !c.is_alphanumeric() && c != '=' && c != '\\')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let joins = |word: &String| is_junction(word);
    let concludes = |word: &String| {
        matches!(word.as_str(), "so" | "thus" | "hence" | "then" | "therefore" | "is" | "not" | "no" | "but" | "equals")
    };
    let marks_only = words.is_empty() && !between.trim().is_empty() || between.is_empty();
    // `\boxed{1}` alone on the next line is rather said again.
    (marks_only && between.contains([',', '+', ';', '&']) || between.is_empty())
        || words.iter().any(joins) && !words.iter().any(concludes) && !between.contains(". ")
        || words.iter().all(|word| word.starts_with('\\') || word.contains('=') || word.len() == 1)
            && between.contains(',')
}

/// What stands before the brace that closes the one just opened. A brace behind a backslash is a character like others.
fn until_closed(content: &str) -> Option<&str> {
    let mut depth = 1usize;
    let mut escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' if depth == 1 => return Some(&content[..at]),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}
