//! Hit rate over budget as an SVG.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Left, right, top and bottom of the axes.
const MARGINS: [f64; 4] = [60.0, 170.0, 30.0, 50.0];
/// Okabe and Ito's colours, which the colour-blind can tell apart.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// One line: budgets in percent of all experts and hit rates, in ascending order of budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Percent of all experts, hit rate from 0 to 1.
    pub points: Vec<(f64, f64)>,
}

/// Draws lines over axes from 0 to 100 %.
pub fn svg(title: &str, lines: &[Line]) -> String {
    let [left, right, top, bottom] = MARGINS;
    let x = |percent: f64| left + percent / 100.0 * (WIDTH - left - right);
    let y = |rate: f64| top + (1.0 - rate) * (HEIGHT - top - bottom);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"18\">{}</text>\n",
        escaped(title)
    );
    let mut put = |text: std::fmt::Arguments<'_>| {
        out.write_fmt(text).expect("strings take everything");
        out.push('\n');
    };
    for tenth in 0..=10 {
        let (share, percent) = (f64::from(tenth) / 10.0, f64::from(tenth) * 10.0);
        let (across, down) = (x(percent), y(share));
        put(format_args!(
            "<path d=\"M{left} {down:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{percent} %</text>",
            x(100.0),
            left - 6.0,
            down + 4.0
        ));
        put(format_args!(
            "<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent}</text>",
            y(0.0) + 18.0
        ));
    }
    put(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">memory, % of all experts</text>",
        x(50.0),
        y(0.0) + 38.0
    ));
    for (place, line) in lines.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(percent, rate)| format!("{:.1},{:.1}", x(*percent), y(*rate)))
            .collect();
        put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        let down = top + 20.0 * (place as f64 + 0.5);
        put(format_args!(
            "<path d=\"M{:.1} {down:.1}h20\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(100.0) + 14.0,
            x(100.0) + 40.0,
            down + 4.0,
            escaped(&line.name)
        ));
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_inside_the_axes_and_named() {
        let line = |name: &str, last| Line {
            name: name.to_owned(),
            points: vec![(0.0, 0.0), (50.0, 0.5), (100.0, last)],
        };
        let drawn = svg("a < b & c", &[line("lru", 0.9), line("belady", 1.0)]);
        assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"));
        assert!(drawn.contains("a &lt; b &amp; c") && drawn.contains(">belady<"));
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(
            drawn.contains("60.0,390.0 305.0,210.0 550.0,66.0"),
            "{drawn}"
        );
        assert!(drawn.contains("550.0,30.0"));
    }
}
