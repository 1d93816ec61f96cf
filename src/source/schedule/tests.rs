use super::*;

fn paris(cron: &str) -> Schedule {
    in_zone(cron, chrono_tz::Europe::Paris)
}

fn in_zone(cron: &str, zone: Tz) -> Schedule {
    let cron = croner::parser::CronParser::builder()
        .seconds(croner::parser::Seconds::Required)
        .build()
        .parse(cron)
        .unwrap();
    Schedule { cron, zone }
}

fn instant(text: &str) -> DateTime {
    DateTime::parse_rfc3339_str(text).unwrap()
}

/// The instants at which it fires between two others.
fn fires(schedule: &Schedule, from: &str, until: &str) -> Vec<String> {
    let next = |at: &DateTime| schedule.next_after(*at);
    std::iter::successors(next(&instant(from)), next)
        .take_while(|at| *at < instant(until))
        .map(|at| at.try_to_rfc3339_string().unwrap())
        .collect()
}

#[test]
fn paris_at_nine_stays_at_nine_across_the_last_sunday_of_march() {
    assert_eq!(
        fires(&paris("0 0 9 * * *"), "2025-03-29T00:00:00Z", "2025-04-01T00:00:00Z"),
        ["2025-03-29T08:00:00Z", "2025-03-30T07:00:00Z", "2025-03-31T07:00:00Z"]
    );
}

#[test]
fn paris_at_nine_stays_at_nine_across_the_last_sunday_of_october() {
    assert_eq!(
        fires(&paris("0 0 9 * * *"), "2025-10-25T00:00:00Z", "2025-10-28T00:00:00Z"),
        ["2025-10-25T07:00:00Z", "2025-10-26T08:00:00Z", "2025-10-27T08:00:00Z"]
    );
}

#[test]
fn half_past_two_in_the_gap_fires_when_the_clock_jumps() {
    assert_eq!(
        fires(&paris("0 30 2 * * *"), "2025-03-29T00:00:00Z", "2025-04-01T00:00:00Z"),
        ["2025-03-29T01:30:00Z", "2025-03-30T01:00:00Z", "2025-03-31T00:30:00Z"]
    );
}

#[test]
fn a_fixed_time_outside_the_gap_fires_once_and_one_within_it_at_its_end() {
    use chrono_tz::{America, Australia, Europe, Pacific};
    let table = [
        // Zone, schedule, the day of the gap in UTC, and the instants.
        (Europe::Paris, "0 1 1 * * *", "2025-03-30", vec!["00:01:00"]),
        (Europe::Paris, "0 30 1 * * *", "2025-03-30", vec!["00:30:00"]),
        (Europe::Paris, "59 59 1 * * *", "2025-03-30", vec!["00:59:59"]),
        (Europe::Paris, "0 0 2 * * *", "2025-03-30", vec!["01:00:00"]),
        (Europe::Paris, "0 59 2 * * SUN", "2025-03-30", vec!["01:00:00"]),
        (Europe::Paris, "0 0 3 * * *", "2025-03-30", vec!["01:00:00"]),
        (America::New_York, "0 30 1 * * *", "2025-03-09", vec!["06:30:00"]),
        (America::New_York, "0 30 2 * * *", "2025-03-09", vec!["07:00:00"]),
        (Australia::Lord_Howe, "0 45 1 * * *", "2025-10-04", vec!["15:15:00"]),
        (Australia::Lord_Howe, "0 15 2 * * *", "2025-10-04", vec!["15:30:00"]),
        // Midnight is skipped: the time before it is of the day before.
        (America::Asuncion, "0 30 23 * * *", "2024-10-06", vec!["03:30:00"]),
        (America::Asuncion, "0 30 0 * * SUN", "2024-10-06", vec!["04:00:00"]),
        // The whole 30 December 2011 is skipped, and 31 December begins then.
        (Pacific::Apia, "0 0 0 30 * *", "2011-12-30", vec!["10:00:00"]),
        (Pacific::Apia, "0 0 9 * * *", "2011-12-30", vec!["10:00:00", "19:00:00"]),
    ];
    for (zone, cron, day, expected) in table {
        let (from, until) = (format!("{day}T00:00:00Z"), format!("{day}T22:00:00Z"));
        let expected: Vec<_> = expected.iter().map(|time| format!("{day}T{time}Z")).collect();
        assert_eq!(fires(&in_zone(cron, zone), &from, &until), expected, "{zone} {cron}");
    }
}

#[test]
fn half_past_two_in_the_overlap_fires_the_first_time_only() {
    let daily = paris("0 30 2 * * *");
    let expected = ["2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z"];
    assert_eq!(fires(&daily, "2025-10-25T12:00:00Z", "2025-10-28T00:00:00Z"), expected);
    // Started in the second pass, before 02:30 comes again.
    assert_eq!(
        fires(&daily, "2025-10-26T01:10:00Z", "2025-10-28T00:00:00Z"),
        expected[1..]
    );
}

#[test]
fn every_half_hour_is_half_an_hour_in_both_passes_of_the_overlap_and_around_the_gap() {
    let often = paris("0 */30 * * * *");
    assert_eq!(
        fires(&often, "2025-10-25T23:59:59.999Z", "2025-10-26T02:10:00Z"),
        [
            "2025-10-26T00:00:00Z",
            "2025-10-26T00:30:00Z",
            "2025-10-26T01:00:00Z",
            "2025-10-26T01:30:00Z",
            "2025-10-26T02:00:00Z"
        ]
    );
    assert_eq!(
        fires(&often, "2025-03-30T00:00:00Z", "2025-03-30T01:40:00Z"),
        ["2025-03-30T00:30:00Z", "2025-03-30T01:00:00Z", "2025-03-30T01:30:00Z"]
    );
}

/// A schedule that answers with the past rings without end.
#[test]
fn every_second_the_next_instant_is_the_next_second() {
    let always = paris("* * * * * *");
    let half_second_before = |hour: &str| instant(&format!("2025-10-26T{hour}:59:59.500Z"));
    for hour in ["22", "23", "00", "01", "02"] {
        let now = half_second_before(hour);
        let next = always.next_after(now).unwrap();
        assert_eq!(next.timestamp_millis() - now.timestamp_millis(), 500, "{hour}");
    }
}

#[test]
fn an_hour_that_is_named_repeats_and_one_that_is_not_waits_for_its_day() {
    assert_eq!(
        fires(&paris("0 0,45 2 * * *"), "2025-10-26T00:20:00Z", "2025-10-27T01:10:00Z"),
        [
            "2025-10-26T00:45:00Z",
            "2025-10-26T01:00:00Z",
            "2025-10-26T01:45:00Z",
            "2025-10-27T01:00:00Z"
        ]
    );
    assert_eq!(
        fires(&paris("0 0,45 4 1 7 *"), "2025-10-26T01:20:00Z", "2026-07-01T02:30:00Z"),
        ["2026-07-01T02:00:00Z"]
    );
}

#[test]
fn a_date_that_never_comes_fires_never() {
    assert_eq!(paris("0 0 0 30 2 *").next_after(instant("2025-01-01T00:00:00Z")), None);
}
