"""Process-wide settings that keep files from fetching, executing or reporting anything.

The command line calls :func:`harden` before GDAL is loaded. The library changes no setting of the process
when it is imported. Either way :mod:`landcover._gdal` opens a file with the driver that its content asks for.
"""

import os

ALLOWED_DRIVERS = frozenset(
    {
        *["GTiff", "COG", "VRT", "JPEG", "PNG", "WEBP", "GIF", "BIGGIF"],
        *["JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID"],
        *["netCDF", "HDF5", "HDF5Image"],
        *["GPKG", "GeoJSON", "GeoJSONSeq", "FlatGeobuf", "ESRI Shapefile", "Parquet", "KML", "LIBKML"],
        *["OpenFileGDB"],
        *["MEM", "Memory", "DERIVED"],  # in memory; GDAL and rasterio use them for their own work
    }
)
"""Drivers of GDAL, for rasters and vectors, that the command line keeps."""

_OTHER_DRIVERS = (
    "AAIGrid,ACE2,ADBC,ADRG,AIG,AIVector,AVCBin,AVCE00,AVIF,AirSAR,AmigoCloud,Arrow,BAG,BASISU,BLX,BMP,"
    "BSB,BT,BYN,CAD,CALS,CEOS,COASP,COSAR,CPG,CSV,CSW,CTG,CTable2,Carto,Cloudant,CouchDB,DAAS,DB2ODBC,"
    "DDS,DGN,DIMAP,DIPEx,DODS,DOQ1,DOQ2,DTED,DWG,DXF,ECRGTOC,ECW,EDIGEO,EEDA,EEDAI,EHdr,EIR,ELAS,ENVI,"
    "ERS,ESAT,ESRIC,ESRIJSON,EXR,Elasticsearch,FAST,FIT,FITS,FileGDB,GDALG,GFF,GML,GMLAS,GNMDatabase,"
    "GNMFile,GPSBabel,GPX,GRASS,GRASSASCIIGrid,GRIB,GS7BG,GSAG,GSBG,GSC,GTFS,GTI,GTX,GXF,GenBin,"
    "GeoRSS,GeoRaster,Geoconcept,HANA,HDF4,HDF4Image,HEIF,HF2,HFA,HTTP,IDB,ILWIS,INGRES,IRIS,"
    "ISCE,ISG,ISIS2,ISIS3,Idrisi,Interlis 1,Interlis 2,JAXAPALSAR,JDEM,JML,JP2Lura,JPEGXL,JPIPKAK,"
    "JSONFG,KEA,KMLSUPEROVERLAY,KRO,KTX2,L1B,LAN,LCP,LIBERTIFF,LOSLAS,LVBAG,Leveller,MAP,MBTiles,MFF,"
    "MFF2,MRF,MSG,MSGN,MSSQLSpatial,MVT,MapInfo File,MapML,MiraMonRaster,MiraMonVector,MongoDB,"
    "MongoDBv3,MrSID,MySQL,NAS,NDF,NGSGEOID,NGW,NITF,NOAA_B,NSIDCbin,NTv2,NWT_GRC,NWT_GRD,OAPIF,OCI,"
    "ODBC,ODS,OGCAPI,OGR_DODS,OGR_GMT,OGR_GRASS,OGR_OGDI,OGR_PDS,OGR_SDE,OGR_VRT,OSM,OZI,OpenAir,PAux,"
    "PCIDSK,PCRaster,PDF,PDS,PDS4,PGDUMP,PGeo,PLMOSAIC,PLSCENES,PMTiles,PNM,PRF,PostGISRaster,"
    "PostgreSQL,R,RASTERLITE,RCM,RDA,RDB,REC,RIK,RMF,ROI_PAC,RPFTOC,RRASTER,RS2,RST,Rasterlite,S102,"
    "S104,S111,S57,SAFE,SAGA,SAR_CEOS,SDTS,SEGUKOOA,SEGY,SENTINEL2,SGI,SIGDEM,SNAP_TIFF,SNODAS,SOSI,"
    "SQLite,SRP,SRTMHGT,STACIT,STACTA,SUA,SVG,SXF,Selafin,TGA,TIGER,TIL,TSX,Terragen,TileDB,TopoJSON,"
    "UK .NTF,USGSDEM,VDV,VFK,VICAR,WAsP,WCS,WFS,WMS,WMTS,WWFMAP,Walk,XLS,XLSX,XODR,XPM,XYZ,XPlane,ZMap,"
    "Zarr"
)

NO_ADDRESS = ".landcover-allows-no-address"
"""An end of names that no address has."""

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",  # read when onnxruntime is loaded, before its API can be called
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def harden() -> None:
    """Set environment variables under which GDAL and other libraries only read what they are given.

    Call it before rasterio or pyogrio is imported; child processes inherit it. GDAL then registers only the
    drivers of :data:`ALLOWED_DRIVERS`, in rasterio and in pyogrio, which each have a GDAL of their own; the
    value of ``GDAL_SKIP`` is extended, not replaced. VRTs cannot execute Python or read raw bytes elsewhere.
    No address is fetched but those passed to landcover itself. Libraries report no use.

    Example:
        >>> from landcover.hardening import harden
        >>> harden()
        >>> import landcover
    """
    skipped = os.environ.get("GDAL_SKIP", "")
    own = [name.strip() for name in skipped.split("," if "," in skipped else None)]
    os.environ["GDAL_SKIP"] = ",".join(dict.fromkeys([*filter(None, own), _OTHER_DRIVERS]))
    os.environ["GDAL_VRT_ENABLE_PYTHON"] = "NO"
    os.environ["CPL_VSIL_CURL_ALLOWED_EXTENSIONS"] = NO_ADDRESS
    disable_telemetry()


def is_hardened() -> bool:
    """Return whether :func:`harden` was called in this process or in its parent."""
    return os.environ.get("CPL_VSIL_CURL_ALLOWED_EXTENSIONS", "").startswith(NO_ADDRESS)


def disable_telemetry() -> None:
    """Set the environment variables by which libraries that are imported later report nothing."""
    os.environ.update(NO_TELEMETRY)
