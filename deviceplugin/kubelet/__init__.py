"""The kubelet's gRPC APIs: .proto files and the Python stubs made from them.

`deviceplugin` (v1beta1), `pluginregistration` and `podresources` (v1) hold what is on the wire: message,
field number, type. The packages have bare names (`v1`, `v1beta1`) in the process-wide descriptor pool, so
each file is compiled under its full path `deviceplugin/kubelet/<name>.proto`.

`*_pb2*` is generated: change the .proto, then run `make stubs`. A test compares them byte by byte.
"""
