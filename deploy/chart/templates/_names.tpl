{{- define "sealift.registry" -}}
{{ required "image.registry is empty: say where the images are, e.g. --set image.registry=HOST/PROJECT" .Values.image.registry }}
{{- end -}}
{{- define "sealift.init" -}}
{{ include "sealift.registry" . }}/{{ .Values.initializer.repository }}{{ if .Values.initializer.digest }}@{{ .Values.initializer.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end -}}
{{- define "sealift.broker" -}}
{{ include "sealift.registry" . }}/{{ .Values.broker.repository }}{{ if .Values.broker.digest }}@{{ .Values.broker.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end -}}
{{- define "sealift.host" -}}
{{ include "sealift.registry" . }}/{{ .Values.agents.repository }}{{ if .Values.agents.digest }}@{{ .Values.agents.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end -}}
