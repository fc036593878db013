"""Why a VF does not exist or does not work, and what to do next: examination looks, causes concludes."""
