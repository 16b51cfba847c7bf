"""The policies of a namespace: kept, asked, recorded, tried on the past and activated in stages."""
