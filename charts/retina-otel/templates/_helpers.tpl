{{- define "retina-otel.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "retina-otel.labels" -}}
app.kubernetes.io/name: retina-otel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "retina-otel.selector" -}}
app.kubernetes.io/name: retina-otel
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "retina-otel.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "retina-otel.serviceAccount" -}}
{{- default (include "retina-otel.name" .) .Values.serviceAccount.name -}}
{{- end }}

{{- define "retina-otel.identityService" -}}
{{ include "retina-otel.name" . }}-identity
{{- end }}

{{/* What the receivers in use need, and nothing else; the reasons are in docs/how-to/run-in-kubernetes.md. */}}
{{- define "retina-otel.capabilities" -}}
{{- $needed := dict -}}
{{- if .Values.receivers.flows.enabled }}{{ range list "BPF" "PERFMON" "NET_ADMIN" }}{{ $_ := set $needed . true }}{{ end }}{{ end -}}
{{- if .Values.receivers.drops.enabled }}{{ range list "BPF" "PERFMON" "SYSLOG" }}{{ $_ := set $needed . true }}{{ end }}{{ end -}}
{{- range .Values.agent.extraCapabilities }}{{ $_ := set $needed . true }}{{ end -}}
{{- keys $needed | sortAlpha | toJson -}}
{{- end }}

{{/* The agent's configuration: what the values say, and .Values.config over it. */}}
{{- define "retina-otel.config" -}}
{{- $receivers := dict -}}
{{- $metrics := list -}}
{{- $logs := list -}}
{{- if .Values.receivers.flows.enabled -}}
{{- $_ := set $receivers "flows" (dict "events" .Values.receivers.flows.events) -}}
{{- $metrics = append $metrics "flows" -}}
{{- if ne .Values.receivers.flows.events "off" }}{{ $logs = append $logs "flows" }}{{ end -}}
{{- end -}}
{{- if .Values.receivers.drops.enabled -}}
{{- $_ := set $receivers "drops" dict -}}
{{- $metrics = append $metrics "drops" -}}
{{- $logs = append $logs "drops" -}}
{{- end -}}
{{- if .Values.receivers.interfaces.enabled -}}
{{- $_ := set $receivers "interfaces" dict -}}
{{- $metrics = append $metrics "interfaces" -}}
{{- end -}}
{{- $exporters := dict -}}
{{- $metricsOut := list -}}
{{- $logsOut := list -}}
{{- with .Values.exporters.otlp -}}
{{- if or .endpoint .settings -}}
{{- $otlp := deepCopy .settings -}}
{{- if .endpoint }}{{ $_ := set $otlp "endpoint" .endpoint }}{{ end -}}
{{- $_ := set $exporters "otlp_http" $otlp -}}
{{- $metricsOut = append $metricsOut "otlp_http" -}}
{{- $logsOut = append $logsOut "otlp_http" -}}
{{- end -}}
{{- end -}}
{{- with .Values.exporters.prometheus -}}
{{- if .enabled -}}
{{- $page := dict "endpoint" (printf "%s:%v" (default "${env:K8S_NODE_IP}" .address) .port) -}}
{{- if .tls.secretName -}}
{{- $tls := dict "cert_file" "/etc/retina-otel/serving/tls.crt" "key_file" "/etc/retina-otel/serving/tls.key" -}}
{{- if .tls.clientCertificates }}{{ $_ := set $tls "client_ca_file" "/etc/retina-otel/serving/ca.crt" }}{{ end -}}
{{- $_ := set $page "tls" $tls -}}
{{- end -}}
{{- if .auth.secretName }}{{ $_ := set $page "auth" (dict "bearer_token_file" "/etc/retina-otel/scraping/token") }}{{ end -}}
{{- $_ := set $exporters "prometheus" $page -}}
{{- $metricsOut = append $metricsOut "prometheus" -}}
{{- end -}}
{{- end -}}
{{- if .Values.exporters.observe.enabled -}}
{{- $_ := set $exporters "observe" dict -}}
{{- $logsOut = append $logsOut "observe" -}}
{{- end -}}
{{- $kubernetes := dict "context" .Values.context "observe_annotated" .Values.annotations -}}
{{- if eq .Values.podsFrom "retinaEndpoints" }}{{ $_ := set $kubernetes "pods_from" "retina_endpoints" }}{{ end -}}
{{- if .Values.podLabels }}{{ $_ := set $kubernetes "labels" .Values.podLabels }}{{ end -}}
{{- if .Values.podAnnotations }}{{ $_ := set $kubernetes "annotations" .Values.podAnnotations }}{{ end -}}
{{- if .Values.identityService.enabled -}}
{{- $service := dict "endpoint" (printf "%s.%s.svc:%v" (include "retina-otel.identityService" .) .Release.Namespace .Values.identityService.port) "ca_file" "/etc/retina-otel/identity/ca.crt" "token_file" "/var/run/secrets/retina-otel/identity/token" -}}
{{- if not .Values.identityService.fallback }}{{ $_ := set $service "fall_back" false }}{{ end -}}
{{- $_ := set $kubernetes "service" $service -}}
{{- end -}}
{{- $pipelines := dict -}}
{{- if and $metrics $metricsOut }}{{ $_ := set $pipelines "metrics" (dict "receivers" $metrics "processors" (list "identity") "exporters" $metricsOut) }}{{ end -}}
{{- if and $logs $logsOut }}{{ $_ := set $pipelines "logs" (dict "receivers" $logs "processors" (list "identity") "exporters" $logsOut) }}{{ end -}}
{{- $config := dict
      "extensions" (dict "kubernetes" $kubernetes "health_check" (dict "endpoint" (printf "127.0.0.1:%v" .Values.agent.healthPort)))
      "receivers" $receivers
      "processors" (dict "identity" dict)
      "exporters" $exporters
      "service" (dict "extensions" (list "kubernetes" "health_check") "telemetry" (dict "logs" (dict "level" .Values.agent.logLevel)) "pipelines" $pipelines) -}}
{{- mustMergeOverwrite $config (deepCopy .Values.config) | toYaml -}}
{{- end }}
