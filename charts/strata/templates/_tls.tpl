{{/* Certificates: which roles have one, and in which Secret. */}}

{{- define "strata.tlsRoles" -}}
{{- $roles := list -}}
{{- if .Values.controller.enabled -}}{{- $roles = append $roles "controller" -}}{{- end -}}
{{- if .Values.node.enabled -}}{{- $roles = append $roles "node" -}}{{- end -}}
{{- if or .Values.store.enabled (include "strata.cephPools" . | fromJsonArray) -}}{{- $roles = append $roles "store" -}}{{- end -}}
{{- if .Values.tls.operator -}}{{- $roles = append $roles "operator" -}}{{- end -}}
{{- toJson $roles -}}
{{- end -}}

{{/* The Secret of a role: (list $ "node"). */}}
{{- define "strata.tlsSecret" -}}
{{- $root := index . 0 -}}{{- $role := index . 1 -}}
{{- $given := index $root.Values.tls.existingSecrets $role -}}
{{- if and (eq $root.Values.tls.source "existing") $given -}}
{{- $given -}}
{{- else -}}
{{- printf "%s-tls-%s" (include "strata.fullname" $root) $role -}}
{{- end -}}
{{- end -}}
