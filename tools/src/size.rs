//! Sizes as people write them: `4k`, `64M`, `1GiB`.

/// Bytes: a number and an optional `k`, `M`, `G` or `T` (powers of 1024; `KiB`, `MB` and the like mean the same).
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

/// Where the digits end.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
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
}
