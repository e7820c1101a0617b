//! Numbers as people read them.

/// A whole number with commas between thousands: `2,308,096`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Some of a number of things: `49 of 65 sites`, or `65 sites` where it is all of them.
pub(super) fn part(some: usize, all: usize, what: &str) -> String {
    if some == all { count(all, what) } else { format!("{} of {}", thousands(some as u64), count(all, what)) }
}

/// A speed: whole from 10 on, with one decimal below; a dash where it isn't known.
pub(super) fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second < 0.0 {
        "–".to_owned()
    } else if per_second < 9.95 {
        format!("{per_second:.1}")
    } else {
        thousands(per_second.round() as u64)
    }
}

/// A duration to the two units that matter: `3.2 s`, `41 s`, `7 min 11 s`, `2 h 03 min`; a dash where it isn't known.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{} h {:02} min", thousands(minutes / 60), minutes % 60)
        }
    }
}

/// A duration as a clock shows it: `0:07`, `7:11`, `2:03:00`; a dash where it isn't known.
pub(super) fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A tensor's shape: `64x56x56`.
pub(super) fn shape(sizes: &[i64]) -> String {
    let sizes: Vec<String> = sizes.iter().map(i64::to_string).collect();
    sizes.join("x")
}

/// A count with its noun: `1 site`, `17 sites`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (100_000, "100,000"),
            (2_308_096, "2,308,096"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 00 s"),
            (431.0, "7 min 11 s"),
            (3599.7, "1 h 00 min"),
            (7380.0, "2 h 03 min"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn clocks_are_short() {
        for (seconds, text) in [(0.2, "0:00"), (59.7, "1:00"), (431.0, "7:11"), (7380.0, "2:03:00"), (f64::NAN, "–")]
        {
            assert_eq!(clock(seconds), text);
        }
    }

    #[test]
    fn rates_are_no_more_exact_than_they_are() {
        for (per_second, text) in [(0.44, "0.4"), (9.96, "10"), (1812.4, "1,812"), (f64::NAN, "–")] {
            assert_eq!(rate(per_second), text);
        }
    }

    #[test]
    fn shapes_and_counts() {
        assert_eq!(shape(&[64, 56, 56]), "64x56x56");
        assert_eq!(shape(&[]), "");
        assert_eq!(count(1, "site"), "1 site");
        assert_eq!(count(4096, "image"), "4,096 images");
    }
}
