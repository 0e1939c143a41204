//! What the chart may say, and what it may not.

use serde_json::json;

use super::*;

fn printed(text: &str) -> Result<String, Failure> {
    let root = json!({ "Values": {
        "name": "llama", "empty": "", "count": 3, "on": true, "off": false, "none": null,
        "list": [{"name": "a", "value": "<&>"}, {"name": "b"}],
        "map": {"z": "1", "a": "2"},
    }});
    let mut templates = Templates::default();
    templates.parse("{{- define \"who\" -}}\nis {{ .Values.name }}\n{{- end -}}")?;
    templates.parse(text)?.render(&templates, &root)
}

#[test]
fn prints_what_helm_prints() {
    for (text, expected) in [
        ("a {{ .Values.name }}{{ .Values.count }}{{ .Values.on }} b", "a llama3true b"),
        ("a\n  {{- if .Values.on }}\n  b\n  {{- end }}\nc", "a\n  b\nc"),
        ("{{ if .Values.off }}x{{ else }}y{{ end }}", "y"),
        ("{{ if .Values.empty }}x{{ end }}{{ if .Values.none }}x{{ end }}", ""),
        (
            "{{ if eq .Values.name \"llama\" }}x{{ end }}{{ if eq .Values.name \"l\" }}y{{ end }}",
            "x",
        ),
        (
            "{{ range .Values.list }}[{{ .name }} {{ toJson .value }}]{{ end }}",
            "[a \"\\u003c\\u0026\\u003e\"][b null]",
        ),
        ("{{ range $k, $v := .Values.map }}{{ $k }}={{ toJson $v }};{{ end }}", "a=\"2\";z=\"1\";"),
        ("[{{ include \"who\" . }}]", "[is llama]"),
        (
            "{{ toJson .Values.map }}{{ .Values.name | toJson }}",
            "{\"a\":\"2\",\"z\":\"1\"}\"llama\"",
        ),
        ("{{ required \"why\" .Values.name }}", "llama"),
    ] {
        assert_eq!(printed(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn what_is_required_says_why() {
    let failure = printed("{{ required \"name it\" .Values.empty }}").unwrap_err();
    assert_eq!((failure.code(), failure.what()), (Code::Usage, "name it"));
    let of_each = "{{ range .Values.list }}{{ required \"name and value\" .value }}{{ end }}";
    assert_eq!(printed(of_each).unwrap_err().what(), "name and value");
}

#[test]
fn what_is_not_known_is_an_error_and_not_text() {
    for text in [
        "{{ .Values.absent }}",
        "{{ .Values.name",
        "{{ end }}",
        "{{ if .Values.on }}",
        "{{ range .Values.on }}{{ end }}",
        "{{ else }}",
        "{{ with .Values.map }}{{ end }}",
        "{{ nindent 8 .Values.name }}",
        "{{ .Values.map }}",
        "{{ range .Values.list }}{{ include \"who\" . }}{{ end }}",
        "{{ include \"nobody\" . }}",
        "{{ include \"who\" .Values }}",
        "{{ $k }}",
        "{{ name }}",
        "{{ define x }}{{ end }}",
        "{{ range $k .Values.map }}{{ end }}",
        "{{ }}",
    ] {
        assert_eq!(printed(text).unwrap_err().code(), Code::Bug, "{text}");
    }
    let endless = "{{ define \"a\" }}{{ include \"a\" . }}{{ end }}{{ include \"a\" . }}";
    assert_eq!(printed(endless).unwrap_err().code(), Code::Bug);
}
