{{/* What a store may do to its host: it marks its threads (SYS_RESOURCE) and keeps memory
from being swapped out (IPC_LOCK). Sockets and data belong to root. */}}
{{- define "strata.storeSecurity" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [SYS_RESOURCE, IPC_LOCK]
seccompProfile:
  type: RuntimeDefault
{{- with .Values.store.seLinuxOptions }}
# Directories of the host are not labelled for containers.
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod of a store, whatever makes it: (dict "root" $ "record" $file "data" $volume). */}}
{{- define "strata.storePod" -}}
{{- $s := .root.Values.store -}}
metadata:
  labels:
    {{- include "strata.podLabels" (list .root "store" $s.podLabels) | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: strata
    {{- with $s.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "strata.serviceAccount" (list .root "store") }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Kernels of the nodes keep connections to a store: the pod network must not be between.
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- with include "strata.placement" (dict "root" .root "of" $s) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  terminationGracePeriodSeconds: 60
  containers:
    - name: strata
      image: {{ include "strata.strataImage" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args:
        - store
        - --data=/var/lib/strata
        - --node-name=$(NODE_NAME)
        {{- if $s.init }}
        - --init-once=/var/lib/strata-record/{{ .record }}
        {{- end }}
        - --api-listen=unix:{{ $s.socketPath }}/api.sock
        - --api-listen=tcp://{{ $s.listenAddress }}:{{ $s.ports.api }}
        - --listen=unix:{{ $s.socketPath }}/nbd.sock
        - --listen=tcp://{{ $s.listenAddress }}:{{ $s.ports.nbd }}
        {{- if eq .root.Values.tls.source "none" }}
        - --insecure
        {{- else }}
        - --tls-ca=/etc/strata-tls/ca.crt
        - --tls-cert=/etc/strata-tls/tls.crt
        - --tls-key=/etc/strata-tls/tls.key
        {{- end }}
        - --http={{ include "strata.hostHTTP" (dict "root" .root "port" $s.ports.http) }}
        - --stop-timeout=45s
        {{- with $s.returnTimeout }}
        - --return-timeout={{ . }}
        {{- end }}
        {{- range $flag, $value := dict "ack" $s.ack "io" $s.io "alloc-unit" $s.allocUnit "copy-rate" $s.copyRate "scrub-every" $s.scrubEvery "scrub-rate" $s.scrubRate }}
        {{- if $value }}
        - --{{ $flag }}={{ $value }}
        {{- end }}
        {{- end }}
        {{- include "strata.logFlags" (dict "of" $s) | nindent 8 }}
        {{- range $s.additionalArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        - name: NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        {{- if eq $s.mode "StatefulSet" }}
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- end }}
      ports:
        - name: api
          containerPort: {{ $s.ports.api }}
          hostPort: {{ $s.ports.api }}
        - name: nbd
          containerPort: {{ $s.ports.nbd }}
          hostPort: {{ $s.ports.nbd }}
        - name: http
          containerPort: {{ $s.ports.http }}
          hostPort: {{ $s.ports.http }}
      {{- $host := ternary "" "127.0.0.1" .root.Values.metrics.enabled }}
      {{- include "strata.probes" (dict "host" $host "port" "http") | nindent 6 }}
      # SYS_RESOURCE: threads that devices of this host depend on are marked, so that
      # memory is never reclaimed through the devices themselves.
      securityContext:
        {{- include "strata.storeSecurity" .root | nindent 8 }}
      # No memory limit: a store that is killed pauses the I/O of all its volumes.
      resources:
        {{- toYaml $s.resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        - name: data
          mountPath: /var/lib/strata
        - name: sockets
          mountPath: {{ $s.socketPath }}
        {{- if $s.init }}
        - name: record
          mountPath: /var/lib/strata-record
        {{- end }}
        {{- if ne .root.Values.tls.source "none" }}
        - name: tls
          mountPath: /etc/strata-tls
          readOnly: true
        {{- end }}
  volumes:
    {{- with .data }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    # Sockets for the nodes' kernels and for the strata tool on the same host.
    - name: sockets
      hostPath:
        path: {{ $s.socketPath }}
        type: DirectoryOrCreate
    {{- if $s.init }}
    # Which stores there have been on this host. It must not be on the disk that holds
    # the data: it tells an empty new disk from one that was lost.
    - name: record
      hostPath:
        path: {{ $s.recordPath }}
        type: DirectoryOrCreate
    {{- end }}
    {{- if ne .root.Values.tls.source "none" }}
    - name: tls
      secret:
        secretName: {{ include "strata.tlsSecret" (list .root "store") }}
        defaultMode: 0400
    {{- end }}
{{- end -}}
