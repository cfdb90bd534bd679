{{/* Names, labels and images. */}}

{{- define "strata.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "strata.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "strata.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of the driver is part of every volume; it is not configurable. */}}
{{- define "strata.driver" -}}csi.strata.dev{{- end -}}

{{/* What selects the pods of a component: (list $ "node"). It never changes. */}}
{{- define "strata.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "strata.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object of a component: (list $ "node"). */}}
{{- define "strata.labels" -}}
{{- $root := index . 0 -}}
{{ include "strata.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: strata
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of the pods of a component: (list $ "node" $podLabels). Without the version of
the chart, so that a chart that changes nothing else restarts nothing. */}}
{{- define "strata.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "strata.selector" (list $root (index . 1)) }}
app.kubernetes.io/part-of: strata
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image: (dict "root" $ "image" $values "tag" $default). */}}
{{- define "strata.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^[^/]*[.:][^/]*/" $repository "") -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "strata.strataImage" -}}
{{- include "strata.image" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end -}}

{{- define "strata.serviceAccount" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}
{{- $account := (index $root.Values $component).serviceAccount -}}
{{- default (printf "%s-%s" (include "strata.fullname" $root) (kebabcase $component)) $account.name -}}
{{- end -}}
