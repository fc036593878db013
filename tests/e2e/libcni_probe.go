// What cnitool has no words for: VERSION, GC with a list of the attachments that are valid, an error's code.
//
//	libcni_probe version TYPE                             the plugin's versions, a JSON list
//	libcni_probe status NETWORK
//	libcni_probe check NETWORK NETNS CONTAINER IFNAME
//	libcni_probe gc NETWORK [CONTAINER IFNAME]...         these are valid
//
// Networks are looked for in NETCONFPATH, plugins in CNI_PATH. What a plugin answers to a failure is printed as a
// JSON object, and the exit status is 1; it is 2 where no plugin was asked.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func main() {
	err := run(os.Args[1:])
	var answered *types.Error
	switch {
	case err == nil:
	case errors.As(err, &answered):
		json.NewEncoder(os.Stdout).Encode(answered)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run(words []string) error {
	if len(words) < 2 {
		return errors.New("expected a verb and a plugin or network")
	}
	ctx := context.Background()
	cni := libcni.NewCNIConfig(filepath.SplitList(os.Getenv("CNI_PATH")), nil)
	verb, name, rest := words[0], words[1], words[2:]
	if verb == "version" {
		info, err := cni.GetVersionInfo(ctx, name)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(info.SupportedVersions())
	}
	network, err := libcni.LoadNetworkConf(os.Getenv("NETCONFPATH"), name)
	if err != nil {
		return err
	}
	switch {
	case verb == "status" && len(rest) == 0:
		return cni.GetStatusNetworkList(ctx, network)
	case verb == "check" && len(rest) == 3:
		return cni.CheckNetworkList(ctx, network, &libcni.RuntimeConf{
			NetNS: rest[0], ContainerID: rest[1], IfName: rest[2]})
	case verb == "gc" && len(rest)%2 == 0:
		valid := []types.GCAttachment{}
		for ; len(rest) > 0; rest = rest[2:] {
			valid = append(valid, types.GCAttachment{ContainerID: rest[0], IfName: rest[1]})
		}
		return cni.GCNetworkList(ctx, network, &libcni.GCArgs{ValidAttachments: valid})
	}
	return fmt.Errorf("not a call: %q", words)
}
