//! Dates as `Date.prototype.toISOString` prints them.

/// The farthest instants that a JavaScript Date can hold, in milliseconds around 1970 (ECMA-262, time values and time range).
const MAX_MILLIS: u64 = 8_640_000_000_000_000;
const DAY_MILLIS: i64 = 86_400_000;

/// Appends `"2024-11-27T10:30:00.000Z"`, years outside 0 to 9999 as `±YYYYYY`, and `null` for an instant that a
/// JavaScript Date cannot hold.
pub(super) fn append_date(millis: i64, out: &mut Vec<u8>) {
    if millis.unsigned_abs() > MAX_MILLIS {
        return out.extend_from_slice(b"null");
    }
    let Civil { year, month, day } = civil_from_days(millis.div_euclid(DAY_MILLIS));
    let time = millis.rem_euclid(DAY_MILLIS);
    out.push(b'"');
    append_year(year, out);
    let fields = [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', time / 3_600_000, 2),
        (b':', time / 60_000 % 60, 2),
        (b':', time / 1000 % 60, 2),
        (b'.', time % 1000, 3),
    ];
    for (separator, value, width) in fields {
        out.push(separator);
        append_digits(value, width, out);
    }
    out.extend_from_slice(b"Z\"");
}

fn append_year(year: i64, out: &mut Vec<u8>) {
    if (0..=9999).contains(&year) {
        return append_digits(year, 4, out);
    }
    out.push(if year < 0 { b'-' } else { b'+' });
    append_digits(year.abs(), 6, out);
}

fn append_digits(value: i64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
    }
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
}

/// The date of a day counted from 1970-01-01 in the proleptic Gregorian calendar.
///
/// Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`: years begin in March there, so that
/// the leap day is the last. No date library of ours reaches JavaScript's year 275760.
fn civil_from_days(days: i64) -> Civil {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil { year, month, day }
}
