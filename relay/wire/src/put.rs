//! The counterpart of [`crate::read`]: little helpers that append protocol fields to a byte vector. Never fails, never truncates.

/// Appends a length-encoded integer (MySQL internals, "Protocol::LengthEncodedInteger").
pub(crate) fn lenenc(out: &mut Vec<u8>, value: u64) {
    let le = value.to_le_bytes();
    match value {
        0..=0xfa => out.push(le[0]),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&le[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&le[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&le);
        }
    }
}

/// Appends a length-encoded string.
pub(crate) fn lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a NUL-terminated string. A NUL inside ends it early, so that no caller's text can forge the fields behind it.
pub(crate) fn nul_terminated(out: &mut Vec<u8>, bytes: &[u8]) {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    out.extend(bytes.iter().take(end));
    out.push(0);
}

/// Text of the wire as a `String`; bytes that are not UTF-8 (a latin1 client's, say) become replacement characters.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Reader;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_length_encoded_integer_reads_back(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            lenenc(&mut out, value);
            let mut reader = Reader::new("integer", &out);
            prop_assert_eq!(reader.lenenc().unwrap(), Some(value));
            prop_assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_nul_in_a_name_cannot_forge_the_next_field() {
        let mut out = Vec::new();
        nul_terminated(&mut out, b"repl\0admin");
        assert_eq!(out, b"repl\0");
    }
}
