//! Writes GGUF files that hold metadata only.

use std::{fs, path::Path};

/// A value of the metadata.
pub enum Value<'a> {
    Text(&'a str),
    Texts(&'a [String]),
    Floats(&'a [f32]),
    Integers(&'a [i32]),
    Flag(bool),
}

/// Writes a file with these keys and no tensors.
pub fn write(path: &Path, metadata: &[(&str, Value<'_>)]) {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut bytes, key);
        match value {
            Value::Text(text) => {
                bytes.extend(8u32.to_le_bytes());
                put_text(&mut bytes, text);
            }
            Value::Texts(texts) => {
                put_array(&mut bytes, 8, texts.len());
                texts.iter().for_each(|text| put_text(&mut bytes, text));
            }
            Value::Floats(floats) => {
                put_array(&mut bytes, 6, floats.len());
                bytes.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
            }
            Value::Integers(integers) => {
                put_array(&mut bytes, 5, integers.len());
                bytes.extend(integers.iter().flat_map(|integer| integer.to_le_bytes()));
            }
            Value::Flag(flag) => {
                bytes.extend(7u32.to_le_bytes());
                bytes.push((*flag).into());
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_array(bytes: &mut Vec<u8>, kind: u32, length: usize) {
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((length as u64).to_le_bytes());
}
