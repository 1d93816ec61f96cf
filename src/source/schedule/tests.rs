use super::*;

fn paris(cron: &str) -> Schedule {
    let cron = croner::parser::CronParser::builder()
        .seconds(croner::parser::Seconds::Required)
        .build()
        .parse(cron)
        .unwrap();
    Schedule {
        cron,
        zone: chrono_tz::Europe::Paris,
    }
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
