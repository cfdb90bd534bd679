{{/* The pools file, and what it needs. */}}

{{/* The port and host name of the store API, looked up anew for each discovery. The
search domains of the cluster's DNS complete the name. */}}
{{- define "strata.storeService" -}}
{{- printf "%s-store.%s.svc:%d" (include "strata.fullname" .) .Release.Namespace (int .Values.store.ports.api) -}}
{{- end -}}

{{/* Whether a pool is made of the stores of this chart: it says nothing else. */}}
{{- define "strata.poolIsOurs" -}}
{{- if and (eq (default "layered" .backend) "layered") (not .members) (not .service) (not .local) -}}yes{{- end -}}
{{- end -}}

{{/* The pools file for a role: (list $ "node"). Only nodes may have a store beside them. */}}
{{- define "strata.poolsFile" -}}
{{- $root := index . 0 -}}{{- $role := index . 1 -}}
pools:
{{- range $pool := $root.Values.pools }}
  - name: {{ .name }}
    {{- if .default }}
    default: true
    {{- end }}
    backend: {{ default "layered" .backend }}
    {{- if include "strata.poolIsOurs" . }}
    service: {{ include "strata.storeService" $root }}
    {{- if eq $role "node" }}
    local: {{ $root.Values.store.socketPath }}
    {{- end }}
    {{- else if eq (default "layered" .backend) "ceph" }}
    service: {{ include "strata.fullname" $root }}-ceph-{{ .ceph.cluster }}.{{ $root.Release.Namespace }}.svc:{{ $root.Values.store.ports.api }}
    {{- else }}
    {{- with .members }}
    members:
      {{- range . }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- with .service }}
    service: {{ . }}
    {{- end }}
    {{- if and .local (eq $role "node") }}
    local: {{ .local }}
    {{- end }}
    {{- end }}
    {{- with .cloneMode }}
    cloneMode: {{ . }}
    {{- end }}
    {{- range $key := list "softCloneDepth" "hardCloneDepth" "blockSize" "iops" "bandwidth" }}
    {{- $value := index $pool $key }}
    {{- if $value }}
    {{ $key }}: {{ int64 $value }}
    {{- end }}
    {{- end }}
{{- end }}
{{- if eq $root.Values.tls.source "none" }}
insecure: true
{{- else }}
tls:
  ca: /etc/strata-tls/ca.crt
  cert: /etc/strata-tls/tls.crt
  key: /etc/strata-tls/tls.key
{{- end }}
{{- end -}}

{{/* The pools of this chart's own stores, as a JSON list. */}}
{{- define "strata.ownPools" -}}
{{- $own := list -}}
{{- range .Values.pools -}}
{{- if include "strata.poolIsOurs" . -}}{{- $own = append $own .name -}}{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/* The clusters of Ceph that pools name, as a JSON list. */}}
{{- define "strata.cephUsed" -}}
{{- $names := list -}}
{{- range .Values.pools -}}
{{- if eq (default "layered" .backend) "ceph" -}}{{- $names = append $names .ceph.cluster -}}{{- end -}}
{{- end -}}
{{- $used := list -}}
{{- range .Values.ceph.clusters -}}
{{- if has .name $names -}}{{- $used = append $used . -}}{{- end -}}
{{- end -}}
{{- toJson $used -}}
{{- end -}}

{{/* Whether an API is there: (list $ "group/version/Kind"). */}}
{{- define "strata.hasAPI" -}}
{{- if (index . 0).Capabilities.APIVersions.Has (index . 1) -}}yes{{- end -}}
{{- end -}}

{{/* Directories of stores on the nodes that other pools name, as a JSON list. */}}
{{- define "strata.localPaths" -}}
{{- $paths := list -}}{{- $seen := list -}}
{{- range .Values.pools -}}
{{- if and .local (not (has .local $seen)) -}}
{{- $seen = append $seen .local -}}
{{- $paths = append $paths (dict "name" (printf "local-%s" .name) "path" .local) -}}
{{- end -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}
