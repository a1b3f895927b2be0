//! Plots in SVG.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::measure::{Latency, Point};

const SIZE: (u32, u32) = (960, 540);
/// Colours that people with colour blindness tell apart (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 5] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167), RGBColor(86, 86, 86)];

/// Lines of fewer points have them marked: of a single one nothing would be seen otherwise.
const MARKED_POINTS: usize = 8;

type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Latency over nines.
    #[must_use]
    pub fn latency(name: &str, latency: &Latency) -> Self {
        Self { name: name.to_owned(), points: latency.curve() }
    }

    /// Some figure over time.
    #[must_use]
    pub fn over_time(name: &str, points: &[Point], figure: fn(&Point) -> f64) -> Self {
        Self { name: name.to_owned(), points: points.iter().map(|point| (point.seconds, figure(point))).collect() }
    }
}

/// Latency over percentiles: the x axis counts nines, so that the tail is as wide as the body; both axes are logarithmic.
///
/// # Errors
/// If the file cannot be written.
pub fn latency_plot(file: &Path, title: &str, series: &[Series]) -> anyhow::Result<()> {
    let all = || series.iter().flat_map(|series| &series.points);
    let most_nines = all().map(|point| point.0).fold(1.0, f64::max);
    let (low, high) = bounds(all().map(|point| point.1));
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| cannot(file, &error))?;
    let mut chart = frame(&root, title)
        .build_cartesian_2d(0.0..most_nines * 1.02, (low..high).log_scale())
        .map_err(|error| cannot(file, &error))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency")
        .x_labels(most_nines.ceil() as usize + 1)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|micros| short_micros(*micros))
        .light_line_style(RGBColor(236, 236, 236))
        .bold_line_style(RGBColor(205, 205, 205))
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .draw()
        .map_err(|error| cannot(file, &error))?;
    draw_lines(&mut chart, series, SeriesLabelPosition::UpperLeft).map_err(|error| cannot(file, &error))?;
    root.present().map_err(|error| cannot(file, &error))
}

/// Throughput over time.
///
/// # Errors
/// If the file cannot be written.
pub fn throughput_plot(file: &Path, title: &str, unit: &str, series: &[Series]) -> anyhow::Result<()> {
    let all = || series.iter().flat_map(|series| &series.points);
    let end = all().map(|point| point.0).fold(0.1, f64::max);
    let high = all().map(|point| point.1).fold(0.0, f64::max);
    // A quarter of headroom keeps the legend clear of the lines.
    let high = if high > 0.0 { high * 1.25 } else { 1.0 };
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| cannot(file, &error))?;
    let mut chart =
        frame(&root, title).build_cartesian_2d(0.0..end * 1.02, 0.0..high).map_err(|error| cannot(file, &error))?;
    chart
        .configure_mesh()
        .x_desc("time, s")
        .y_desc(unit)
        .x_label_formatter(&|seconds| trimmed(*seconds))
        .y_label_formatter(&|figure| trimmed(*figure))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .draw()
        .map_err(|error| cannot(file, &error))?;
    draw_lines(&mut chart, series, SeriesLabelPosition::UpperRight).map_err(|error| cannot(file, &error))?;
    root.present().map_err(|error| cannot(file, &error))
}

fn frame<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    title: &str,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(root);
    builder.caption(title, ("sans-serif", 20)).margin(16).x_label_area_size(48).y_label_area_size(84);
    builder
}

type DrawError = DrawingAreaErrorKind<std::io::Error>;

fn draw_lines<'a, 'b: 'a, Y>(
    chart: &mut Chart<'a, 'b, Y>,
    series: &[Series],
    legend: SeriesLabelPosition,
) -> Result<(), DrawError>
where
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    let drawn = series.iter().zip(COLOURS.iter().cycle()).filter(|(series, _)| !series.points.is_empty());
    for (series, colour) in drawn {
        let style = colour.stroke_width(2);
        if series.points.len() < MARKED_POINTS {
            chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), style))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(205, 205, 205))
        .draw()
}

fn cannot(file: &Path, error: &DrawError) -> anyhow::Error {
    anyhow!("cannot draw {}: {error}", file.display())
}

/// Whole decades around some positive figures.
fn bounds(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::MAX, f64::MIN);
    for figure in figures.filter(|figure| *figure > 0.0) {
        low = low.min(figure);
        high = high.max(figure);
    }
    if low > high {
        return (1.0, 10.0);
    }
    let low = 10f64.powf(low.log10().floor());
    // Room above the highest keeps the legend clear of the lines.
    (low, 10f64.powf((high * 3.0).log10().ceil()).max(low * 10.0))
}

/// The percentile with that many nines: 0 is the least, 1 is 90 %, 2 is 99 %.
fn percentile(nines: f64) -> String {
    let digits = (nines - 2.0).ceil().max(0.0) as usize;
    format!("{:.digits$} %", 100.0 - 100.0 * 10f64.powf(-nines))
}

fn short_micros(micros: f64) -> String {
    match micros {
        _ if micros < 1.0 => format!("{} ns", trimmed(micros * 1000.0)),
        _ if micros < 1e3 => format!("{} us", trimmed(micros)),
        _ if micros < 1e6 => format!("{} ms", trimmed(micros / 1e3)),
        _ => format!("{} s", trimmed(micros / 1e6)),
    }
}

/// Up to three digits behind the point, without trailing zeros; millions and thousands as M and k.
fn trimmed(figure: f64) -> String {
    let (scaled, unit) = match figure {
        _ if figure >= 1e6 => (figure / 1e6, "M"),
        _ if figure >= 1e4 => (figure / 1e3, "k"),
        _ => (figure, ""),
    };
    let text = format!("{scaled:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_in_the_fields_terms() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(percentile), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!([0.1, 1.0, 250.0, 1e4, 2e6].map(short_micros), ["100 ns", "1 us", "250 us", "10 ms", "2 s"]);
        assert_eq!([0.0, 0.25, 1500.0, 25_000.0, 6e6].map(trimmed), ["0", "0.25", "1500", "25k", "6M"]);
        assert_eq!(bounds([3.0, 0.0, 250.0].into_iter()), (1.0, 1000.0));
        assert_eq!(bounds([].into_iter()), (1.0, 10.0));
    }

    #[test]
    fn plots_hold_title_units_and_names_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let mut latency = Latency::default();
        (1..=10_000u64).for_each(|n| latency.record(n * n));
        let file = folder.path().join("latency.svg");
        latency_plot(&file, "Time to load", &[Series::latency("retrieve", &latency)]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for part in ["Time to load", "percentile", "99.9 %", "retrieve", "us", "<polyline"] {
            assert!(text.contains(part), "{part} is missing");
        }
        let file = folder.path().join("throughput.svg");
        let series = Series { name: "read".into(), points: vec![(0.5, 1.0), (1.5, 2.0)] };
        throughput_plot(&file, "Throughput", "GB/s", &[series]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(["Throughput", "GB/s", "time, s", "read"].iter().all(|part| text.contains(part)));
        assert!(throughput_plot(&folder.path().join("no/such"), "t", "u", &[]).is_err());
    }

    #[test]
    fn nothing_measured_is_an_empty_plot() {
        let folder = tempfile::tempdir().unwrap();
        let empty = Series { name: "none".into(), points: Vec::new() };
        latency_plot(&folder.path().join("a.svg"), "t", std::slice::from_ref(&empty)).unwrap();
        throughput_plot(&folder.path().join("b.svg"), "t", "u", &[empty]).unwrap();
    }
}
