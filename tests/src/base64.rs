//! Base64, which etcd's gateway wants for keys and values.

use anyhow::{Context, Result, ensure};

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let groups = bytes.chunks(3).flat_map(|group| {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        (0..4).map(move |index| match index <= group.len() {
            true => char::from(LETTERS[(bits >> (18 - 6 * index) & 63) as usize]),
            false => '=',
        })
    });
    groups.collect()
}

/// Text as the text that it stands for.
pub(crate) fn decode(text: &str) -> Result<String> {
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = LETTERS.iter().position(|known| *known == letter).context("no base64")? as u32;
        (bits, held) = (bits << 6 | value, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    ensure!(held < 6, "base64 that ends early");
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_the_rfc_says() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(encode(text.as_bytes()), coded);
            assert_eq!(decode(coded).unwrap(), text);
        }
    }
}
