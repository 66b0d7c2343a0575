//! Values of columns as JSON.
//!
//! Numbers whose sign the log does not tell, and which would differ, are given in both readings. Text is a string, other bytes are
//! `{"hex":"..."}`. Times are as SQL writes them; a TIMESTAMP is UTC.

use mysql_cdc::events::row_events::mysql_value::{MySqlValue, Time};
use serde_json::{Value, json};

use crate::events::file::hex;

const TYPE_JSON: u8 = 245;
const TYPE_GEOMETRY: u8 = 255;

/// A value. `unsigned`: whether the column is, if that is known.
pub(super) fn json(value: &MySqlValue, column_type: u8, unsigned: Option<bool>) -> Value {
    match value {
        MySqlValue::TinyInt(v) => integer(u64::from(*v), 8, unsigned),
        MySqlValue::SmallInt(v) => integer(u64::from(*v), 16, unsigned),
        MySqlValue::MediumInt(v) => integer(u64::from(*v), 24, unsigned),
        MySqlValue::Int(v) => integer(u64::from(*v), 32, unsigned),
        MySqlValue::BigInt(v) => integer(*v, 64, unsigned),
        MySqlValue::Float(v) => float(&v.to_string()),
        MySqlValue::Double(v) => float(&v.to_string()),
        MySqlValue::Decimal(v) | MySqlValue::String(v) => Value::from(v.as_str()),
        MySqlValue::Bit(bits) => match bits.len() {
            0..=64 => Value::from(bits.iter().fold(0_u64, |n, bit| n << 1 | u64::from(*bit))),
            _ => Value::from(bits.iter().map(|bit| if *bit { '1' } else { '0' }).collect::<String>()),
        },
        MySqlValue::Enum(v) => Value::from(*v),
        MySqlValue::Set(v) => Value::from(*v),
        MySqlValue::Blob(v) => bytes(v, matches!(column_type, TYPE_JSON | TYPE_GEOMETRY)),
        MySqlValue::Year(1900) => Value::from(0), // stored as 0
        MySqlValue::Year(v) => Value::from(*v),
        MySqlValue::Date(d) => Value::from(format!("{:04}-{:02}-{:02}", d.year, d.month, d.day)),
        MySqlValue::Time(t) => Value::from(time(t)),
        MySqlValue::DateTime(d) => Value::from(format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{}",
            d.year,
            d.month,
            d.day,
            d.hour,
            d.minute,
            d.second,
            millis(d.millis)
        )),
        MySqlValue::Timestamp(v) => Value::from(timestamp(*v)),
    }
}

fn integer(raw: u64, bits: u32, unsigned: Option<bool>) -> Value {
    let shift = 64 - bits;
    let signed = ((raw << shift) as i64) >> shift;
    match unsigned {
        Some(true) => Value::from(raw),
        Some(false) => Value::from(signed),
        None if signed < 0 => json!({ "signed": signed, "unsigned": raw }),
        None => Value::from(raw),
    }
}

/// The shortest text that reads back as the same number; what JSON has no number for stays text.
fn float(text: &str) -> Value {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() => Value::from(v),
        _ => Value::from(text),
    }
}

fn bytes(value: &[u8], binary: bool) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) if !binary && !text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) => {
            Value::from(text)
        }
        _ => json!({ "hex": hex(value) }),
    }
}

fn time(t: &Time) -> String {
    format!("{:02}:{:02}:{:02}{}", t.hour, t.minute, t.second, millis(t.millis))
}

fn millis(millis: u32) -> String {
    if millis == 0 { String::new() } else { format!(".{millis:03}") }
}

fn timestamp(unix_millis: u64) -> String {
    let time = i64::try_from(unix_millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match time {
        Some(_) if unix_millis == 0 => "0000-00-00 00:00:00".to_owned(),
        Some(time) => format!("{time:.3}").replace(".000Z", "Z"),
        None => format!("{unix_millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_whose_sign_is_not_known_is_given_in_both_readings_where_they_differ() {
        // (raw, unsigned) -> value
        for (value, unsigned, expected) in [
            (MySqlValue::TinyInt(255), Some(false), json!(-1)),
            (MySqlValue::TinyInt(255), Some(true), json!(255)),
            (MySqlValue::TinyInt(127), None, json!(127)),
            (MySqlValue::TinyInt(255), None, json!({"signed": -1, "unsigned": 255})),
            (MySqlValue::MediumInt(0xff_fffe), Some(false), json!(-2)),
            (MySqlValue::BigInt(u64::MAX), Some(true), json!(u64::MAX)),
            (MySqlValue::BigInt(u64::MAX), Some(false), json!(-1)),
        ] {
            assert_eq!(json(&value, 0, unsigned), expected);
        }
    }

    #[test]
    fn floats_keep_their_shortest_form_and_bits_are_a_number() {
        assert_eq!(json(&MySqlValue::Float(0.1), 4, None).to_string(), "0.1");
        assert_eq!(json(&MySqlValue::Double(f64::NAN), 5, None), json!("NaN"));
        assert_eq!(json(&MySqlValue::Bit(vec![true, false, true]), 16, None), json!(5));
    }

    #[test]
    fn bytes_that_are_text_are_a_string_and_others_are_hex() {
        assert_eq!(json(&MySqlValue::Blob(b"caf\xc3\xa9".to_vec()), 252, None), json!("café"));
        assert_eq!(json(&MySqlValue::Blob(vec![0, 1]), 252, None), json!({"hex": "0001"}));
        assert_eq!(json(&MySqlValue::Blob(b"abc".to_vec()), TYPE_JSON, None), json!({"hex": "616263"}));
    }

    #[test]
    fn a_timestamp_is_utc_and_0_is_the_zero_date() {
        assert_eq!(timestamp(1_700_000_000_250), "2023-11-14T22:13:20.250Z");
        assert_eq!(timestamp(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(timestamp(0), "0000-00-00 00:00:00");
        assert_eq!(timestamp(u64::MAX), format!("{} ms", u64::MAX));
    }
}
