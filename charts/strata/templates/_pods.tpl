{{/* Parts that pods share. */}}

{{/* Where a pod may run and who pulls its images: (dict "root" $ "of" $values). */}}
{{- define "strata.placement" -}}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Flags that every process of strata has: (dict "of" $values). */}}
{{- define "strata.logFlags" -}}
- --verbosity={{ .of.logLevel }}
- --log-format={{ .of.logFormat }}
{{- end -}}

{{/* Probes of a process of strata: (dict "host" $host "port" $port). A start may take long,
as that of a store which has journals to replay, and is not to be cut short: an hour. */}}
{{- define "strata.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ .port }}
    {{- with .host }}
    host: {{ . }}
    {{- end }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 1800
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ .port }}
    {{- with .host }}
    host: {{ . }}
    {{- end }}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
    {{- with .host }}
    host: {{ . }}
    {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/* Address of metrics and health of a process in the network of the host. Without
metrics nobody but kubelet needs it. */}}
{{- define "strata.hostHTTP" -}}
{{- if .root.Values.metrics.enabled -}}:{{ .port }}{{- else -}}127.0.0.1:{{ .port }}{{- end -}}
{{- end -}}

{{/* Volumes with the pools file and the certificates: (dict "root" $ "role" "node"). */}}
{{- define "strata.configVolumes" -}}
- name: pools
  configMap:
    name: {{ include "strata.fullname" .root }}-pools
    items:
      - key: {{ ternary "node" "controller" (eq .role "node") }}.yaml
        path: pools.yaml
{{- if ne .root.Values.tls.source "none" }}
- name: tls
  secret:
    secretName: {{ include "strata.tlsSecret" (list .root .role) }}
    defaultMode: {{ .mode }}
{{- end }}
{{- end -}}

{{- define "strata.configMounts" -}}
- name: pools
  mountPath: /etc/strata
  readOnly: true
{{- if ne .Values.tls.source "none" }}
- name: tls
  mountPath: /etc/strata-tls
  readOnly: true
{{- end }}
{{- end -}}

{{/* One sidecar of the controller: (dict "root" $ "name" "csi-provisioner" "of" $values
"portName" "provisioner" "port" 9811 "args" (list …)). */}}
{{- define "strata.sidecar" -}}
- name: {{ .name }}
  image: {{ include "strata.image" (dict "root" .root "image" .of.image "tag" "") }}
  imagePullPolicy: {{ .of.image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --leader-election
    - --leader-election-namespace=$(POD_NAMESPACE)
    - --http-endpoint=:{{ .port }}
    - --kube-api-qps={{ .of.kubeAPIQPS }}
    - --kube-api-burst={{ .of.kubeAPIBurst }}
    - --v={{ .of.logLevel }}
    {{- range .args }}
    - {{ . }}
    {{- end }}
    {{- range .of.additionalArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: POD_NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
  ports:
    - name: {{ .portName }}
      containerPort: {{ .port }}
  livenessProbe:
    httpGet:
      path: /healthz/leader-election
      port: {{ .portName }}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 10
    failureThreshold: 3
  securityContext:
    {{- toYaml .of.securityContext | nindent 4 }}
  {{- with .of.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: socket
      mountPath: /csi
{{- end -}}

{{/* Two controllers are of use on two nodes. Values replace it as a whole. */}}
{{- define "strata.controllerAffinity" -}}
{{- if .Values.controller.affinity -}}
{{- toYaml .Values.controller.affinity -}}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "strata.selector" (list . "controller") | nindent 12 }}
{{- end -}}
{{- end -}}

{{/* Whether the cluster has the snapshot API once this release is installed. */}}
{{- define "strata.snapshotAPI" -}}
{{- if or .Values.snapshotController.enabled (include "strata.hasAPI" (list . "snapshot.storage.k8s.io/v1")) -}}yes{{- end -}}
{{- end -}}

{{/* The components with metrics, and their ports, as a JSON list. */}}
{{- define "strata.measured" -}}
{{- $all := list -}}
{{- range list "controller" "node" "store" -}}
{{- if (index $.Values .).enabled -}}
{{- $all = append $all (dict "component" . "port" (index $.Values .).ports.http) -}}
{{- end -}}
{{- end -}}
{{- range include "strata.cephPools" . | fromJsonArray -}}
{{- $all = append $all (dict "component" (printf "gateway-%s" .name) "port" (include "strata.cephPort" (list . "http") | int)) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}
