//! Sizes and durations as people write them: `4k`, `64M`, `1GiB`; `500ms`, `30s`, `2m`.

use std::time::Duration;

/// Bytes: a number and an optional `k`, `M`, `G` or `T` (powers of 1024; `KiB`, `MB` and the like mean the
/// same).
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("write a size such as 4096, 4k, 64M or 1G".to_owned()),
    };
    let n: u64 = number.parse().map_err(|_| "write a size such as 4096, 4k, 64M or 1G".to_owned())?;
    n.checked_mul(1 << shift).ok_or_else(|| "that size does not fit 64 bits".to_owned())
}

/// A duration: seconds, or a number with `ms`, `s`, `m` or `h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)) {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("write a time such as 500ms, 10s or 2m".to_owned()),
    }
}

/// Where the digits end.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// The shortest exact or near form: `64 MiB`, `1.5 GiB`, `512 B`.
pub(crate) fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (1..UNITS.len()).rev().find(|&u| bytes >> (10 * u) > 0).unwrap_or(0);
    let whole = 1u64 << (10 * unit);
    if bytes.is_multiple_of(whole) {
        format!("{} {}", bytes / whole, UNITS[unit])
    } else {
        format!("{:.1} {}", bytes as f64 / whole as f64, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("64M", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1g", 1 << 30),
            ("2TB", 2 << 40),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "k", "-1", "1.5G", "4kk", "4x", "99999999999T", "18446744073709551616"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "0", "0s", "s", "10d", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_sizes() {
        assert_eq!(show(0), "0 B");
        assert_eq!(show(512), "512 B");
        assert_eq!(show(64 << 20), "64 MiB");
        assert_eq!(show(3 << 29), "1.5 GiB");
        assert_eq!(show(u64::MAX), "16777216.0 TiB");
    }
}
