import numpy as np
from dlcore import data
def test_a(write_dataset, monkeypatch):
    rng=np.random.default_rng(0)
    im=rng.integers(0,256,(20,5,5,1),dtype=np.uint8)
    d=write_dataset({"train":(im,np.arange(20)%3),"test":(im[:4],[0,1,2,0])},(5,5,1))
    ds=data.load("shapes",d)
    np.testing.assert_array_equal(ds.splits["test"].fetch(np.arange(4))["image"],im[:4])
    print(ds.statistics, ds.class_names)
    f=rng.normal(size=(20,4)).astype(np.float32)
    d=write_dataset({"train":(f,np.arange(20)%3),"test":(f[:4],[0,1,2,0])},(4,),name="tab")
    ds=data.load("tab",d)
    print(ds.statistics, ds.image_shape)
    for n,(i,l,s) in {"z":(im[:0],[],(5,5,1)),"neg":(im[:2],[0,3],(5,5,1)), "nan":(np.full((2,4),np.nan,np.float32),[0,1],(4,)),"wrong":(im[:2],[0,1],(6,6,1)),"var":(im[:2],[0,1],(None,None,1))}.items():
        d=write_dataset({"train":(i,l),"test":(im[:1] if n=="z" else i[:2],l[:2] or [0])},s,name=n)
        try: data.load(n,d); print("no error",n)
        except data.catalogue.UsageError as e: print(e)
